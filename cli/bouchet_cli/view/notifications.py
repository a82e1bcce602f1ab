"""What `bouchet notify` prints: targets without their secrets, and what became of the last messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from bouchet_cli.client.http import Json

from .screen import StyledLine, truncate, wrap
from .tables import NOTE_INDENT, age, plural

STATE_STYLE: Mapping[str, str] = {"sent": "green", "waiting": "yellow", "failed": "bold red"}
SHOWN_MESSAGES = 8
NOT_CONFIGURED = (
    "no target is configured: write URLs such as ntfys://TOPIC into NOTIFY_URLS of .env, then run `make up`; "
    "`bouchet notify test` tries them"
)


def notification_lines(report: Json, width: int, now: datetime) -> Iterator[StyledLine]:
    """Yield the targets, what is sent to them, and the last messages."""
    status = report["status"] or {"targets": (), "events": ()}
    for target in status["targets"]:
        yield from target_lines(target, width, now)
    events = ", ".join(status["events"]) or "nothing, but of deployments launched with --notify"
    yield from (StyledLine(part, "dim") for part in wrap(f"sent: {events}", width))
    messages = report["messages"][:SHOWN_MESSAGES]
    yield StyledLine("last messages:" if messages else "no messages yet")
    for one in messages:
        yield from _message_lines(one, width, now)


def target_lines(target: Json, width: int, now: datetime) -> Iterator[StyledLine]:
    """Yield one target: its number and service, and when it last took a message or why it did not."""
    line = StyledLine(f"target {target['number']}: {target['shown']} ")
    if target["problem"]:
        yield truncate(line.append("fails", "bold red"), width)
        yield from (StyledLine(NOTE_INDENT + part) for part in wrap(target["problem"], width - len(NOTE_INDENT)))
    elif target["sent_at"]:
        text = f"works, last message {age(datetime.fromisoformat(target['sent_at']), now)} ago"
        yield truncate(line.append(text, "green"), width)
    else:
        yield truncate(line.append("nothing sent yet", "dim"), width)


def test_lines(deliveries: Sequence[Json], targets: Sequence[Json], width: int) -> Iterator[StyledLine]:
    """Yield what became of a test message at each target."""
    shown = {target["number"]: target["shown"] for target in targets}
    for delivery in deliveries:
        number = delivery["target"]
        line = StyledLine(f"target {number}: {shown.get(number, '?')} ")
        yield truncate(line.append(delivery["state"], STATE_STYLE.get(delivery["state"], "")), width)
        if delivery["problem"]:
            yield from (StyledLine(NOTE_INDENT + part) for part in wrap(delivery["problem"], width - len(NOTE_INDENT)))


def failure_text(deliveries: Sequence[Json]) -> str:
    """Return the error for the targets that a test did not reach, empty if it reached all."""
    failed = [one for one in deliveries if one["state"] != "sent"]
    if not failed:
        return ""
    return f"{plural(len(failed), 'target')} of {len(deliveries)} did not take the message; correct NOTIFY_URLS in .env"


def _message_lines(report: Json, width: int, now: datetime) -> Iterator[StyledLine]:
    message, deliveries = report["message"], report["deliveries"]
    line = StyledLine(f"{NOTE_INDENT}{age(datetime.fromisoformat(message['at']), now)} ago: {message['title']} ")
    states = [one["state"] for one in deliveries]
    counts = {state: states.count(state) for state in STATE_STYLE if state in states}
    for state, count in counts.items():
        text = state if len(states) == 1 else f"{count} {state} "
        line.append(text, STATE_STYLE[state])
    yield truncate(line, width)
    for one in deliveries:
        if one["state"] != "sent" and one["problem"]:
            text = f"target {one['target']}: {one['problem']}"
            indent = NOTE_INDENT * 2
            yield from (StyledLine(indent + part, "dim") for part in wrap(text, width - len(indent)))
