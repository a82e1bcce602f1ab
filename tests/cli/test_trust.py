"""`bouchet tunnel --trust`: what is accepted is what a person has seen."""

from __future__ import annotations

from tests.fakes.gateway_api import FakeGateway

from .conftest import Bouchet
from .test_terminal import terminal

KEY = "SHA256:uNiVztksCsDhcc0u9e8BrNtxfPWYnvQdsqMJ9VJ4Cdo"


def test_without_a_terminal_the_fingerprint_has_to_be_given(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.offer(KEY)
    asked = bouchet("tunnel", "--trust")
    assert (asked.status, KEY in asked.err, gateway.tunnel["state"]) == (1, True, "refused")
    done = bouchet("tunnel", "--trust", KEY)
    assert (done.status, gateway.tunnel["state"]) == (0, "up"), done.err
    assert "tunnel to login: up" in done.out


def test_another_fingerprint_and_a_changed_key_are_refused(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.offer(KEY)
    other = bouchet("tunnel", "--trust", "SHA256:other")
    assert (other.status, KEY in other.err) == (1, True)
    gateway.offer(KEY, changed=True)
    assert bouchet("tunnel", "--trust", KEY).status == 1
    assert gateway.tunnel["state"] == "refused"


def test_a_person_is_asked_and_may_say_no(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.offer(KEY)
    with terminal(bouchet.program("tunnel", "--trust"), bouchet.environment) as tty:
        tty.until(KEY)
        tty.until("(yes/no)")
        tty.type("no\n")
        tty.until("nothing was changed")
    assert gateway.tunnel["state"] == "refused"
    with terminal(bouchet.program("tunnel", "--trust"), bouchet.environment) as tty:
        tty.until("(yes/no)")
        tty.type("yes\n")
        tty.until("tunnel to login: up")


def test_how_far_how_much_and_what_went_wrong_is_shown(bouchet: Bouchet, gateway: FakeGateway) -> None:
    seen = {"round_trip_ms": 12.34, "bytes_up": 1_500, "bytes_down": 2_400_000_000, "open_channels": 3}
    gateway.tunnel |= {**seen, "reconnects": 2, "last_error": "the connection was lost: Connection reset"}
    done = bouchet("tunnel")
    assert done.out.splitlines()[1:] == [
        "  12.3 ms to the login node and back; 3 channels open; 1.5 KB sent, 2.4 GB received",
        "  reconnected 2 times; last: the connection was lost: Connection reset",
    ]


def test_it_can_be_watched(bouchet: Bouchet, gateway: FakeGateway) -> None:
    with terminal(bouchet.program("tunnel", "--watch"), bouchet.environment) as tty:
        tty.until("tunnel to login: up")
        gateway.tunnel |= {"state": "down", "detail": "the connection was lost"}
        tty.until("down, trying again")
        tty.type("\x03")
        assert tty.rest()[0] == 130
    assert bouchet("tunnel", "--watch", "--json").status == 2


def test_nodes_and_a_key_that_waits_are_shown(bouchet: Bouchet, gateway: FakeGateway) -> None:
    key = {"place": "node2", "algorithm": "ssh-ed25519", "fingerprint": KEY, "changed": False}
    gateway.tunnel |= {"nodes": {"node1": "", "node2": "cannot log in to node2"}, "host_key": key}
    assert bouchet("tunnel").out.splitlines()[1:] == [
        "  node1: reached over ssh",
        "  node2: cannot log in to node2",
        f"  node2 shows ssh-ed25519 {KEY}: `bouchet tunnel --trust` accepts it",
    ]


def test_the_host_that_asks_is_named(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Passcode: ")
    gateway.tunnel["prompt"]["host"] = "gate (the jump host to cluster)"
    with terminal(bouchet.program("tunnel"), bouchet.environment) as tty:
        tty.until("gate (the jump host to cluster) asks:")
        tty.until("Passcode: ")
        tty.type("123456\n")
        tty.until("tunnel to login: up")
