"""`python -m bouchet_notifier`: read notices and send messages until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from bouchet_core.errors import BouchetError
from bouchet_core.settings import start_logging
from bouchet_core.store import Store

from .notifier import Notifier
from .settings import NotifierSettings
from .targets import parse_targets

log = logging.getLogger("bouchet_notifier")


def main() -> int:
    """Run the notifier; return 1 after printing one sentence when a setting is wrong."""
    try:
        settings = NotifierSettings.from_environment(os.environ)
    except BouchetError as exc:
        print(f"notifier: {exc}", file=sys.stderr)
        return 1
    start_logging(settings.log_level)
    targets = parse_targets(settings.notify_urls.get_secret_value() if settings.notify_urls else "")
    store = Store.connect(settings.redis_login)
    notifier = Notifier(store, targets, settings.events, settings.heartbeat_file)

    def stop(number: int, frame: FrameType | None) -> None:
        notifier.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    log.info("%d target%s; sends: %s", len(targets), "" if len(targets) == 1 else "s", ", ".join(settings.events))
    try:
        notifier.run()
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
