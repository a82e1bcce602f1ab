"""The targets of NOTIFY_URLS, and one try to send a message to one of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bouchet_core.notices import MAX_TARGETS, Message, NoticeKind

# the longest that one try may take, a start of Python and apprise included
DEADLINE_S = 25.0
SEPARATOR = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
# what the process that sends may know of this one's environment
PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
# apprise's types, which choose a colour or symbol
TYPES: Mapping[NoticeKind, str] = {
    NoticeKind.READY: "success",
    NoticeKind.ENDING: "warning",
    NoticeKind.FAILED_START: "failure",
    NoticeKind.NEEDS_PERSON: "warning",
    NoticeKind.BUDGET: "warning",
}


@dataclass(frozen=True)
class Target:
    """One URL. number: its place in NOTIFY_URLS, from 1."""

    number: int
    url: str = field(repr=False)

    @property
    def scheme(self) -> str:
        """The part of the URL that is no secret."""
        scheme, separator, _ = self.url.partition("://")
        return scheme.lower() if separator else "?"

    def shown(self, service: str = "") -> str:
        """Return how the target is named where people read it: `Slack (slack://***)`."""
        masked = f"{self.scheme}://***"
        return f"{service} ({masked})" if service else masked


@dataclass(frozen=True)
class AttemptResult:
    """What came of one try. problem: empty when the message was sent. is_final: trying again is no use."""

    problem: str = ""
    is_final: bool = False
    service: str = ""


def parse_targets(urls: str) -> list[Target]:
    """Return the targets of NOTIFY_URLS: URLs that are separated by blanks or commas; those above MAX_TARGETS are left
    out. A comma within a URL separates nothing.
    """
    found = [url.strip().rstrip(",") for url in SEPARATOR.split(urls.strip())]
    return [Target(number, url) for number, url in enumerate(filter(None, found), start=1)][:MAX_TARGETS]


def check_target(target: Target, deadline_s: float = DEADLINE_S) -> AttemptResult:
    """Tell whether apprise can use the URL; nothing is sent."""
    return _run({"url": target.url}, deadline_s)


def send_message(target: Target, message: Message, deadline_s: float = DEADLINE_S) -> AttemptResult:
    """Try once to send the message."""
    request = {
        "url": target.url,
        "title": message.title,
        # some services refuse an empty body
        "body": message.text or message.title,
        "type": TYPES.get(message.kind, "info"),
    }
    return _run(request, deadline_s)


def _run(request: Mapping[str, str], deadline_s: float) -> AttemptResult:
    """Run the process that sends, and end it at the deadline."""
    argv: Sequence[str] = (sys.executable, "-m", "bouchet_notifier.attempt")
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        done = subprocess.run(
            argv,
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=deadline_s,
            check=False,
            # a Ctrl-C of the terminal is for the notifier, which lets a try end
            start_new_session=True,
        )
        found = json.loads(done.stdout)
        return AttemptResult(str(found["problem"]), bool(found["final"]), str(found["service"]))
    except subprocess.TimeoutExpired:
        return AttemptResult(f"it did not answer within {deadline_s:.0f} s")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return AttemptResult(f"the process that sends failed ({type(exc).__name__}); `make logs` may show the cause")
