"""The reasons of actions, as people read them in `status` and the decision log."""

from __future__ import annotations

from datetime import datetime

from bouchet_core.policy.weekly import zone_or_utc


def clock(moment: datetime, now: datetime, zone: str) -> str:
    """Return the time in the zone: `14:32`, `Mon 08:30` within a week, else with the date."""
    local, today = moment.astimezone(zone_or_utc(zone)), now.astimezone(zone_or_utc(zone))
    if local.date() == today.date():
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if 0 < (local.date() - today.date()).days < 7 else f"{local:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """Return a duration for people, rounded: `40 s`, `12 min`, `2 h 05 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def renewal(remaining_s: float, queue_s: float, startup_s: float, answer_s: float) -> str:
    """Return why a successor is submitted now."""
    expected = f"queue about {span(queue_s)}, start {span(startup_s)}, longest answer {span(answer_s)}"
    return f"{span(remaining_s)} left: {expected}"


def late(remaining_s: float, answer_s: float, eta: str) -> str:
    """Return why a job takes no new requests although nothing else is ready."""
    held = f"new requests wait for the next job ({eta})" if eta else "new requests wait for the next job"
    return f"it ends in {span(remaining_s)}, and an answer may take {span(answer_s)}: {held}"


def failed_starts(count: int, reason: str) -> str:
    """Return why nothing more is submitted."""
    last = reason.rstrip(".") or "no reason is known"
    return f"{count} starts in a row failed; the last one: {last}. Fix that, then resume with `bouchet keep`"


def too_short(walltime_s: float, startup_s: float, answer_s: float) -> str:
    """Return why jobs of this walltime are of no use."""
    needed = startup_s + answer_s
    return (
        f"its walltime of {span(walltime_s)} is over before it could answer (start {span(startup_s)}, longest answer "
        f"{span(answer_s)}); relaunch it with --time of more than {span(needed)}"
    )


def not_seen(seconds: float) -> str:
    """Return why nothing is decided: records may be old."""
    return f"the cluster was last queried {span(seconds)} ago; nothing is changed until it answers"
