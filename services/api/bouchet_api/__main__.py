"""`python -m bouchet_api`: serves the API on all addresses of its container."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn
from bouchet_core.errors import ConfigurationError

from .app import create_app
from .dependencies import opened
from .settings import ApiSettings

# open event streams are cut after so long when the container stops
SHUTDOWN_S = 3


def main() -> int:
    """Runs until it is told to stop; 1 when the configuration cannot be used."""
    try:
        settings = ApiSettings.from_environment(os.environ)
        logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s %(message)s")
        # it would write a line for every question to the gateway
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with opened(settings) as parts:
            uvicorn.run(
                create_app(parts, settings.api_key.get_secret_value()),
                host="0.0.0.0",  # inside the container; Compose publishes it on 127.0.0.1 alone
                port=settings.api_port,
                log_level=settings.log_level.lower(),
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
    except ConfigurationError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
