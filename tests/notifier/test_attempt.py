"""One try with the real apprise against a real receiver: what it sends, and what it says of each fault."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bouchet_core.notices import MAX_TARGETS, Message, NoticeKind
from bouchet_notifier.attempt import attempt, collect_log
from bouchet_notifier.targets import AttemptResult, Target, check_target, parse_targets, send_message

from tests.notifier.receiver import PASSWORD, SECRET_PATH, USER, Receiver

# apprise's plugins import what newer versions of Python do not have, and do without it there
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MESSAGE = Message(id="m", kind=NoticeKind.READY, title="qwen is ready", text="<b>5 < 6</b>", at=datetime.now(UTC))


def send(receiver: Receiver, deadline_s: float = 25.0) -> AttemptResult:
    return send_message(Target(1, receiver.url), MESSAGE, deadline_s)


def send_here(url: str) -> AttemptResult:
    """Try in this process, which spares the start of another one."""
    request = {"url": url, "title": MESSAGE.title, "body": MESSAGE.text, "type": "success"}
    found = attempt(request, collect_log())
    return AttemptResult(found["problem"], found["final"], found["service"])


def test_checked_url_is_sent_nothing(receiver: Receiver) -> None:
    assert check_target(Target(1, receiver.url)) == AttemptResult(service="JSON")
    assert not receiver.paths


def test_message_arrives_once_as_plain_text(receiver: Receiver) -> None:
    assert send(receiver) == AttemptResult(service="JSON")
    (message,) = receiver.messages
    assert (message["title"], message["message"], message["type"]) == ("qwen is ready", "<b>5 < 6</b>", "success")


@pytest.mark.parametrize(
    ("mode", "problem", "is_final"),
    [
        ("500", "it has an error of its own (HTTP 500)", False),
        ("429", "it asks for a pause (HTTP 429)", False),
        ("401", "it refuses the user, password or token of the URL (HTTP 401)", True),
        ("404", "it does not know the address or token of the URL (HTTP 404)", True),
        ("400", "it refuses the message (HTTP 400)", True),
        ("redirect", "it answers with a redirect, which is not followed", True),
        ("hang", "it did not answer in time", False),
    ],
)
def test_faults_of_a_target_are_named_without_its_secrets(
    receiver: Receiver, mode: str, problem: str, is_final: bool
) -> None:
    receiver.mode = mode
    result = send_here(receiver.url)
    assert result.problem.startswith(problem) and result.is_final is is_final
    assert not any(secret in result.problem for secret in (SECRET_PATH, USER, PASSWORD, "127.0.0.1"))
    assert receiver.paths == [f"/{SECRET_PATH}"], "nothing follows a redirect, and one try is one request"


def test_target_that_trickles_is_ended_at_the_deadline(receiver: Receiver) -> None:
    receiver.mode = "trickle"
    began = time.monotonic()
    assert send(receiver, 4.0).problem == "it did not answer within 4 s"
    assert time.monotonic() - began < 10


def test_url_that_asks_for_redirects_gets_none(receiver: Receiver) -> None:
    receiver.mode = "redirect"
    result = send_here(f"{receiver.url}?redirect=yes")
    assert result.is_final and len(receiver.paths) == 1


def test_unreachable_target_is_tried_again(receiver: Receiver) -> None:
    refused = send_here("json://127.0.0.1:1/x")
    assert refused == AttemptResult("nothing listens there (connection refused)", False, "JSON")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nfty://secret-topic", "apprise has no service `nfty://`; did you mean ntfy://?"),
        ("slack://secret-token", "it is not a whole URL for Slack; a right one looks like slack://TOKEN_A/"),
        ("mailto://secret-host", "it is not a whole URL for E-Mail; a right one looks like mailtos://USER:PASSWORD@"),
        ("secret-word", "it is not a URL; they begin with ntfys://"),
        ("dbus://", "DBus Notification needs a program or library that the notifier's image does not have"),
    ],
)
def test_wrong_url_is_explained_without_repeating_it(url: str, problem: str) -> None:
    result = send_here(url)
    assert result.problem.startswith(problem) and result.is_final
    assert "secret" not in result.problem and "secret" not in Target(1, url).shown(result.service)


def test_targets_are_split_at_blanks_and_commas_between_urls() -> None:
    found = parse_targets("ntfys://a  mailto://u:p@h?to=x@y,z@y, slack://A/B\tjson://h\n")
    assert [one.url for one in found] == ["ntfys://a", "mailto://u:p@h?to=x@y,z@y", "slack://A/B", "json://h"]
    assert [one.number for one in found] == [1, 2, 3, 4] and "u:p" not in repr(found)
    assert parse_targets("") == [] and len(parse_targets("ntfy://a " * 20)) == MAX_TARGETS


def test_process_that_sends_has_no_url_in_argv_or_environment(receiver: Receiver) -> None:
    receiver.mode = "hang"
    seen: list[bytes] = []

    def watch() -> None:
        for _ in range(400):
            for folder in Path("/proc").iterdir():
                if not folder.name.isdigit():
                    continue
                try:
                    argv = (folder / "cmdline").read_bytes()
                    if b"bouchet_notifier.attempt" in argv:
                        seen.append(argv + (folder / "environ").read_bytes())
                except OSError:
                    continue
            if receiver.paths:
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    send(receiver)
    watcher.join()
    assert seen and not any(secret.encode() in text for text in seen for secret in (SECRET_PATH, PASSWORD))
