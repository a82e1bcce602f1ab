"""Running one piece of work beside the reconcile loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

# how work is started; tests start it in the calling thread
Start = Callable[[Callable[[], None]], None]


def start_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with the process; the next worker does the work again."""
    threading.Thread(target=work, name="background", daemon=True).start()
