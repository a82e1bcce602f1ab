"""Which deployment a person means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from .client.errors import NotReadyError
from .client.records import Deployment

# of what ended unasked, `bouchet status` tells so long, and of so many
LATELY = timedelta(hours=12)
MOST_ENDED = 3


def ready_one(live: Sequence[Deployment], name: str | None) -> Deployment:
    """The newest ready deployment (of that name). `live` is newest first. NotReadyError says what there is instead."""
    meant = [d for d in live if name is None or d.answers_to(name)]
    ready = [d for d in meant if d.phase == "ready" and not d.stopping]
    if ready:
        return ready[0]
    if meant:
        raise NotReadyError(f"{meant[0].alias} is not ready yet: {in_words(meant[0])}; `bouchet status` shows more")
    if name is None or not live:
        raise NotReadyError("nothing runs; `bouchet launch` starts a model")
    names = ", ".join(d.alias for d in live)
    raise NotReadyError(f"nothing runs under the name {name}; running: {names}")


def on_its_way(live: Sequence[Deployment], name: str | None) -> Deployment | None:
    """The newest deployment (of that name) that will become ready, None when none will."""
    meant = [d for d in live if (name is None or d.answers_to(name)) and not d.stopping]
    return next((d for d in meant if d.phase not in ("ended", "draining")), None)


def ended_lately(known: Sequence[Deployment], now: datetime) -> list[Deployment]:
    """What ended unasked in the last hours and nothing has replaced, newest first. `known`: all, newest first."""
    names: set[str] = set()
    found: list[Deployment] = []
    for deployment in known:
        is_news = deployment.phase == "ended" and deployment.ending != "cancelled"
        if is_news and deployment.alias not in names and now - deployment.updated_at < LATELY:
            found.append(deployment)
        names.update(deployment.names)
    return found[:MOST_ENDED]


def in_words(deployment: Deployment) -> str:
    """The phase and its reason."""
    return f"{deployment.phase} ({deployment.words})" if deployment.words else deployment.phase
