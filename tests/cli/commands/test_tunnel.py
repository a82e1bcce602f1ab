"""`bouchet tunnel`: state, login prompts, host keys."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import Bouchet, FakeGateway, one_line_error

FINGERPRINT = "SHA256:uNiVztksCsDhcc0u9e8BrNtxfPWYnvQdsqMJ9VJ4Cdo"


def test_tunnel_connect_shows_the_state(bouchet: Bouchet, gateway: FakeGateway) -> None:
    done = bouchet("tunnel", "--connect")
    assert (done.status, done.out.startswith("tunnel to login: up")) == (0, True)
    assert gateway.connects == 1


def test_tunnel_with_open_prompt_is_not_ready_without_terminal(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Passcode or option (1-2): ")
    done = bouchet("--tunnel", "--json")
    assert (done.status, json.loads(done.out)["prompt"]["id"]) == (3, "p1")
    assert "Passcode or option (1-2)" in done.err


def test_tunnel_prompt_is_answered_without_echo(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Passcode: ")
    gateway.tunnel["prompt"]["host"] = "gate (the jump host to cluster)"
    with bouchet.terminal("tunnel") as tty:
        tty.until("gate (the jump host to cluster) asks:")
        tty.until("Passcode: ")
        tty.type("987654\n")
        tty.until("tunnel to login: up")
        status, rest = tty.rest()
    assert (status, gateway.answers) == (0, [["987654"]])
    assert "987654" not in rest


def test_trust_without_terminal_needs_the_fingerprint(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.offer(FINGERPRINT)
    done = bouchet("tunnel", "--trust")
    assert (done.status, FINGERPRINT in done.err, gateway.tunnel["state"]) == (1, True, "refused")
    done = bouchet("tunnel", "--trust", FINGERPRINT)
    assert (done.status, gateway.tunnel["state"]) == (0, "up"), done.err


def test_trust_of_a_wrong_fingerprint_or_a_changed_key_is_refused(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.offer(FINGERPRINT)
    other = bouchet("tunnel", "--trust", "SHA256:other")
    assert (other.status, FINGERPRINT in other.err) == (1, True)
    gateway.offer(FINGERPRINT, changed=True)
    assert bouchet("tunnel", "--trust", FINGERPRINT).status == 1
    assert gateway.tunnel["state"] == "refused"


@pytest.mark.parametrize(("answer", "state"), [("no", "refused"), ("yes", "up")])
def test_trust_on_a_terminal_asks_for_confirmation(
    bouchet: Bouchet, gateway: FakeGateway, answer: str, state: str
) -> None:
    gateway.offer(FINGERPRINT)
    with bouchet.terminal("tunnel", "--trust") as tty:
        tty.until(FINGERPRINT)
        tty.until("(yes/no)")
        tty.type(f"{answer}\n")
        status, _ = tty.rest()
    assert (status, gateway.tunnel["state"]) == (0 if answer == "yes" else 1, state)


def test_trust_without_an_unknown_key_fails(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("tunnel", "--trust"), 1)


@pytest.mark.slow
def test_watch_on_a_terminal_shows_changes(bouchet: Bouchet, gateway: FakeGateway) -> None:
    with bouchet.terminal("tunnel", "--watch") as tty:
        tty.until("tunnel to login: up")
        gateway.tunnel |= {"state": "down", "detail": "the connection was lost"}
        tty.until("the connection was lost")
        tty.type("\x03")
        assert tty.rest()[0] == 130


def test_watch_in_a_pipe_prints_a_line_for_every_change(bouchet: Bouchet, gateway: FakeGateway) -> None:
    def disconnect() -> None:
        gateway.tunnel |= {"state": "down", "detail": "the connection was lost"}

    def interrupt() -> None:
        raise KeyboardInterrupt

    done = bouchet.reacting({"tunnel to login: up": disconnect, "was lost": interrupt}, "tunnel", "--watch")
    assert done.status == 130 and len(done.out.splitlines()) == 2


@pytest.mark.parametrize(
    "options", [("--watch", "--json"), ("--port", "0", "--json"), ("--port", "0", "--watch"), ("--port=70000",)]
)
def test_tunnel_options_that_exclude_each_other_are_refused(bouchet: Bouchet, options: tuple[str, ...]) -> None:
    assert one_line_error(bouchet("tunnel", *options), 2)
