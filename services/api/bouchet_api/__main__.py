"""`python -m bouchet_api`: serve the API on all addresses of its container."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn
from bouchet_core.errors import ConfigurationError
from bouchet_core.settings import start_logging

from .app import create_app
from .dependencies import open_state
from .settings import ApiSettings

# open event streams are closed after this time when the container stops
SHUTDOWN_S = 3


def main() -> int:
    """Serve until SIGTERM or SIGINT; return 1 when the configuration cannot be used."""
    try:
        settings = ApiSettings.from_environment(os.environ)
        start_logging(settings.log_level)
        # httpx logs one line per request to the gateway at INFO
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with open_state(settings) as state:
            uvicorn.run(
                create_app(state, settings.admin_key.get_secret_value()),
                host="0.0.0.0",  # inside the container; Compose publishes the port on 127.0.0.1 only
                port=settings.api_port,
                log_config=None,
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
