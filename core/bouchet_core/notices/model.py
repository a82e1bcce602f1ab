"""Notices: what people are notified of, and what became of each message. All values are frozen.

The worker appends notices, the gateway's tunnel events ask for a person, and the notifier sends messages about both.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from bouchet_core.values import FrozenModel, is_seen

# what happened longer ago is not sent one by one
NOTICE_AGE = timedelta(minutes=15)
MAX_TITLE, MAX_TEXT = 120, 600
MAX_TARGETS = 8


# what may be a secret in a text of Slurm, vLLM or ssh: tokens, keys, passwords in URLs
_SECRET = re.compile(r"(?i)\b(hf_|sk-|xox[a-z]-|gh[a-z]_)[\w-]{6,}|(?<=bearer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
# names that chat services turn into a ping of many people
_PING = re.compile(r"(?<![\w*])@(?=\w)|<(?=[!@#])")
_UNSEEN = "\u200b"


def plain_text(text: str, longest: int) -> str:
    """Return one line of plain text: without control characters, what looks like a secret, and pings of a chat."""
    printable = "".join(char if is_seen(char) else " " for char in text)
    line = _PING.sub(lambda found: found[0] + _UNSEEN, _SECRET.sub("***", " ".join(printable.split())))
    return line if len(line) <= longest else line[: longest - 1] + "…"


class NoticeKind(StrEnum):
    """What a message is about. NOTIFY_EVENTS chooses among the first six."""

    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"
    FAILED_START = "failed_start"
    NEEDS_PERSON = "needs_person"
    BUDGET = "budget"
    # what was missed while the notifier was away
    SUMMARY = "summary"
    TEST = "test"


EVENTS = (
    *(NoticeKind.READY, NoticeKind.ENDING, NoticeKind.ENDED, NoticeKind.FAILED_START),
    *(NoticeKind.NEEDS_PERSON, NoticeKind.BUDGET),
)


class _Stored(FrozenModel):
    """A value that services of other versions read too: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Notice(_Stored):
    """One happening. `key` names it: a notice with the same key is the same happening and is appended once."""

    key: str
    kind: NoticeKind
    title: str = Field(max_length=MAX_TITLE)
    text: str = Field(default="", max_length=MAX_TEXT)
    asked: bool = Field(default=False, description="of a deployment that was launched with `--notify`")
    at: datetime


class Message(_Stored):
    """What is sent to every target."""

    id: str
    kind: NoticeKind
    title: str
    text: str = ""
    at: datetime


class Delivery(_Stored):
    """What became of a message at one target."""

    target: int = Field(description="number of the target in NOTIFY_URLS, from 1")
    state: Literal["waiting", "sent", "failed"] = "waiting"
    tries: int = 0
    problem: str = Field(default="", description="why the last try failed")


class MessageReport(_Stored):
    """A message, and what became of it at each target."""

    message: Message
    deliveries: tuple[Delivery, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether no target waits for another try."""
        return all(one.state != "waiting" for one in self.deliveries)

    def with_delivery(self, delivery: Delivery) -> MessageReport:
        """Return the report with that target's delivery replaced."""
        kept = tuple(delivery if one.target == delivery.target else one for one in self.deliveries)
        return self.model_copy(update={"deliveries": kept})


class TargetStatus(_Stored):
    """One target of NOTIFY_URLS, without its secrets."""

    number: int
    shown: str = Field(description="the service and the scheme of the URL; all else of it is secret")
    problem: str = Field(default="", description="why the last message was not sent; empty when it was")
    sent_at: datetime | None = Field(default=None, description="when a message was last sent")


class NotifierStatus(_Stored):
    """What the notifier sends, and where to."""

    started_at: datetime
    events: tuple[NoticeKind, ...] = Field(description="what is sent of every deployment (NOTIFY_EVENTS)")
    targets: tuple[TargetStatus, ...] = ()


class NotificationReport(FrozenModel):
    """All that `bouchet notify` shows."""

    configured: bool = Field(description="whether NOTIFY_URLS names a target")
    running: bool = Field(default=False, description="whether the notifier has a recent heartbeat")
    problem: str = Field(default="", description="what is wrong, and what to do about it; empty when all is well")
    status: NotifierStatus | None = None
    messages: tuple[MessageReport, ...] = Field(default=(), description="the last messages, newest first")
