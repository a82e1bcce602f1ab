"""Which messages are sent for what the notifier reads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from bouchet_core.notices import MAX_TEXT, MAX_TITLE, NOTICE_AGE, Message, Notice, NoticeKind, plain_text
from bouchet_core.tunnel import TunnelEvent, TunnelState
from bouchet_core.values import FrozenModel
from pydantic import ConfigDict

# a person who sits at the prompt answers it meanwhile
PERSON_GRACE_S = 20.0
# a login that asks again after so long is a new happening, although the connection was never up
ASKED_AGAIN = timedelta(minutes=30)
KIND_TEXT = {
    NoticeKind.READY: "ready",
    NoticeKind.ENDING: "about to end",
    NoticeKind.ENDED: "ended",
    NoticeKind.FAILED_START: "did not start",
    NoticeKind.BUDGET: "about a budget",
}


class PersonState(FrozenModel):
    """Whether the SSH connection waits for a person. entry: id of the event that began it; empty: it does not."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    entry: str = ""
    title: str = ""
    text: str = ""
    at: datetime | None = None
    sent_at: datetime | None = None

    @property
    def is_due(self) -> bool:
        """Whether a message is still to be sent about it."""
        return bool(self.entry) and self.sent_at is None

    def advance(self, entry: str, event: TunnelEvent) -> PersonState:
        """Return the state after a change of the connection.

        A wait ends when the connection is up, or when it goes on before a message was sent. Prompts that follow one
        another within ASKED_AGAIN are one wait.
        """
        if event.state is TunnelState.UP:
            return PersonState()
        if event.state not in (TunnelState.NEEDS_HUMAN, TunnelState.REFUSED):
            return self if self.sent_at is not None else PersonState()
        if self.sent_at is not None and abs(event.at - self.sent_at) < ASKED_AGAIN:
            return self
        title, text = person_text(event)
        began = self.entry if self.is_due else entry
        return PersonState(entry=began, title=title, text=text, at=event.at)

    def message(self, now: datetime) -> Message:
        """Return the message about it."""
        identity = f"person-{self.entry}"
        return Message(id=identity, kind=NoticeKind.NEEDS_PERSON, title=self.title, text=self.text, at=self.at or now)


def person_text(event: TunnelEvent) -> tuple[str, str]:
    """Return title and text about a connection that waits for a person."""
    host = event.host or "the login node"
    if event.waits_for == "host_key":
        title, text = f"{host} shows an unknown host key", "Compare and accept it: `bouchet tunnel --trust`."
    elif event.state is TunnelState.REFUSED:
        title, text = f"{host} refuses the login", f"{event.detail.rstrip('.')}. See `bouchet tunnel`."
    else:
        title = f"{host} waits for your second factor"
        text = "No model can be launched or reached until the login is answered: `bouchet tunnel`, or in the dashboard."
    return plain_text(title, MAX_TITLE), plain_text(text.removeprefix(". "), MAX_TEXT)


def messages_of(notices: Sequence[tuple[str, Notice]], events: Collection[NoticeKind], now: datetime) -> list[Message]:
    """Return the messages for these entries: one for each notice that is wanted, and one for all that are old.

    events: kinds that are sent of every deployment; of one that was launched with `--notify` all are sent.
    """
    wanted = [(entry, notice) for entry, notice in notices if notice.asked or notice.kind in events]
    fresh = [pair for pair in wanted if now - pair[1].at <= NOTICE_AGE]
    old = [pair for pair in wanted if pair not in fresh]
    messages = [
        Message(id=f"notice-{entry}", kind=notice.kind, title=notice.title, text=notice.text, at=notice.at)
        for entry, notice in fresh
    ]
    return [*([_summary(old, now)] if old else []), *messages]


def _summary(old: Sequence[tuple[str, Notice]], now: datetime) -> Message:
    """Return one message about notices that are too old to be sent one by one."""
    counts = Counter(notice.kind for _, notice in old)
    parts = ", ".join(f"{count} {KIND_TEXT.get(kind, kind)}" for kind, count in counts.items())
    last = max(old, key=lambda pair: pair[1].at)[1]
    title = f"{len(old)} messages were missed" if len(old) > 1 else "1 message was missed"
    text = f"While the notifier was away: {parts}. The last one: {last.title}. `bouchet status` shows what runs now."
    return Message(
        id=f"summary-{old[0][0]}", kind=NoticeKind.SUMMARY, title=title, text=plain_text(text, MAX_TEXT), at=now
    )
