"""`python -m bouchet_notifier.attempt`: one message to one target, in a process of its own.

The request comes on standard input, so that no URL is in an argv or an environment, and the result leaves on standard
output. The process that starts this one ends it after a deadline, whatever the target does. Apprise and the clients of
all its services are loaded here alone: between messages they use no memory.

Apprise's log holds URLs, topics and tokens. It is read here and goes nowhere: what leaves are the sentences below.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import apprise
from apprise.plugins import N_MGR

STATUS = re.compile(r"\berror=(\d{3})\b")
NOT_FOLLOWED = "it answers with a redirect, which is not followed; write the address that it leads to into the URL"
# of services whose shortest template is no help
EXAMPLES: Mapping[str, str] = {
    "mailto": "mailtos://USER:PASSWORD@HOST?to=ADDRESS",
    "slack": "slack://TOKEN_A/TOKEN_B/TOKEN_C/CHANNEL",
    "ntfy": "ntfys://TOPIC or ntfys://USER:PASSWORD@HOST/TOPIC",
}
# parts of errors of requests, urllib3, ssl and smtplib, and what they mean
CAUSES: tuple[tuple[str, str], ...] = (
    (r"timed out|timeout", "it did not answer in time"),
    (r"name or service not known|failed to resolve|nodename nor servname|name resolution", "its host is not known"),
    (r"connection refused", "nothing listens there (connection refused)"),
    (r"certificate verify failed|certificate has expired|hostname mismatch", "its certificate is not valid"),
    (r"network is unreachable|no route to host", "its network cannot be reached"),
    (r"\b535\b|authentication failed|username and password not accepted", "it refuses the user or the password"),
    (r"connection (reset|aborted)|remote end closed|connection error", "the connection broke"),
)


def main() -> None:
    """Read the request, send the message or check the URL alone, and print the result."""
    request: dict[str, Any] = json.load(sys.stdin)
    log = collect_log()
    print(json.dumps(attempt(request, log)), flush=True)


def collect_log() -> list[str]:
    """Return the list that everything apprise logs is appended to; nothing of it is printed."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage()[:2000])

    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [Collector()], False
    logger.setLevel(logging.DEBUG)
    return lines


def attempt(request: Mapping[str, Any], log: list[str]) -> dict[str, Any]:
    """Send one message.

    request: url, and title, body and type of a message, without which the URL is only checked. The result has
    `service`, and `problem`, which is empty after success; `final`: trying again is no use.
    """
    url = str(request["url"])
    asset = apprise.AppriseAsset(app_id="bouchet-llm", app_desc="bouchet-llm", http_redirects=False)
    target = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if target is None:
        return {"service": "", "problem": explain_url(url), "final": True}
    service = str(getattr(target, "service_name", "") or "")
    # a URL could ask for redirects; whoever answers with one would choose where the message goes
    target.redirects = False
    if "body" not in request:
        return {"service": service, "problem": "", "final": False}
    sender = apprise.Apprise(asset=asset)
    sender.add(target)
    try:
        sent = sender.notify(
            body=request["body"],
            title=request["title"],
            notify_type=request["type"],
            body_format=apprise.NotifyFormat.TEXT,
        )
    except Exception as exc:
        # a fault of a plugin; its text may hold the URL
        return {"service": service, "problem": f"it could not be sent ({type(exc).__name__})", "final": False}
    problem, final = ("", False) if sent else explain_failure("\n".join(log))
    return {"service": service, "problem": problem, "final": final}


def explain_failure(log: str) -> tuple[str, bool]:
    """Return why a target did not take a message, and whether trying again is no use."""
    found = STATUS.search(log)
    if found:
        return explain_status(int(found[1]))
    for pattern, problem in CAUSES:
        if re.search(pattern, log, re.IGNORECASE):
            return problem, False
    return "it did not take the message", False


def explain_status(status: int) -> tuple[str, bool]:
    """Return what an HTTP status of a target means, and whether trying again is no use."""
    if 300 <= status < 400:
        return f"{NOT_FOLLOWED} (HTTP {status})", True
    if status in (401, 403):
        return f"it refuses the user, password or token of the URL (HTTP {status})", True
    if status in (404, 410):
        return f"it does not know the address or token of the URL (HTTP {status})", True
    if status in (408, 425, 429):
        return f"it asks for a pause (HTTP {status})", False
    if status < 500:
        return f"it refuses the message (HTTP {status})", True
    return f"it has an error of its own (HTTP {status})", False


def explain_url(url: str) -> str:
    """Return what is wrong with a URL that apprise cannot use, and what a right one looks like, without its secrets."""
    if "://" not in url:
        return "it is not a URL; they begin with ntfys://, slack://, mailtos:// or others"
    scheme = url.partition("://")[0].lower()
    schemes = [str(one) for one in N_MGR.schemas()]  # type: ignore[no-untyped-call]
    if scheme not in schemes:
        close = difflib.get_close_matches(scheme, schemes, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}://?" if close else "URLs begin with ntfys://, slack://, mailtos:// or others"
        return f"apprise has no service `{scheme}://`; {hint}"
    plugin = N_MGR[scheme]
    name = str(getattr(plugin, "service_name", None) or scheme)
    if not plugin.enabled:
        return f"{name} needs a program or library that the notifier's image does not have; choose another service"
    shown = EXAMPLES.get(scheme.removesuffix("s")) or " or ".join(
        _example(template, scheme) for template in sorted(plugin.templates, key=len)[:2]
    )
    return f"it is not a whole URL for {name}; a right one looks like {shown}"


def _example(template: str, scheme: str) -> str:
    """Return a template of apprise, such as {schema}://{token}, as people read it: slack://TOKEN."""
    return re.sub(r"\{(\w+)\}", lambda part: part[1].upper(), template.replace("{schema}", scheme))


if __name__ == "__main__":
    main()
    # the result has left: what Python does at its end takes longer than the message did
    os._exit(0)
