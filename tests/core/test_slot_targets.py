"""Slot targets: which the gateway may follow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from bouchet_core.tunnel import JOB_PORTS, JOB_SOCKET, SlotTarget, TargetSigner
from hypothesis import given
from hypothesis import strategies as st

SIGNER = TargetSigner("token")
ON_PORT = SlotTarget(node="node1", port=20_001, deployment="aa")
ON_SOCKET = SlotTarget(node="node1", socket="/tmp/bouchet-aa/vllm.sock", deployment="aa")
NETWORK = Path(__file__).parents[2] / "remote" / "job" / "network.py"


@pytest.mark.parametrize("target", [ON_PORT, ON_SOCKET, ON_PORT.model_copy(update={"loopback": True})])
def test_signed_target_survives_the_store_and_is_accepted(target: SlotTarget) -> None:
    stored = SIGNER.signed(3, target).model_dump_json(exclude_defaults=True)
    assert SIGNER.problem(3, SlotTarget.model_validate_json(stored)) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"node": "203.0.113.7"},
        {"port": 20_002},
        {"port": None, "socket": "/tmp/other/vllm.sock"},
        {"loopback": True},
        {"deployment": "bb"},
        {"signature": ""},
        {"signature": "é"},
    ],
)
def test_signed_target_with_a_changed_field_is_refused(change: dict[str, object]) -> None:
    forged = SIGNER.signed(0, ON_PORT).model_copy(update=change)
    assert "no valid signature" in SIGNER.problem(0, forged)


def test_signed_target_of_another_slot_or_token_is_refused() -> None:
    assert SIGNER.problem(1, SIGNER.signed(0, ON_PORT))
    assert SIGNER.problem(0, TargetSigner("other").signed(0, ON_PORT))


@pytest.mark.parametrize("port", [None, 0, 22, JOB_PORTS.start - 1, JOB_PORTS.stop, 65_535])
def test_signed_target_with_a_port_that_no_job_chooses_is_refused(port: int | None) -> None:
    target = ON_PORT.model_copy(update={"port": port})
    assert "its port is not one of 20000-31999" in SIGNER.problem(0, SIGNER.signed(0, target))


@pytest.mark.parametrize("socket", ["/run/dbus/system_bus_socket", "", "/tmp/vllm.sock/", "/tmp/xvllm.sock"])
def test_signed_target_with_a_socket_of_another_name_is_refused(socket: str) -> None:
    target = ON_SOCKET.model_copy(update={"socket": socket})
    assert "socket is not named vllm.sock" in SIGNER.problem(0, SIGNER.signed(0, target))


ATTACHED = SlotTarget(node="node1", port=8000, deployment="aa", attached=True)


def test_target_of_an_attached_server_is_accepted_at_its_own_ports() -> None:
    stored = SIGNER.signed(3, ATTACHED).model_dump_json(exclude_defaults=True)
    assert SIGNER.problem(3, SlotTarget.model_validate_json(stored)) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"node": "127.0.0.1"}, {"node": "localhost"}, {"node": "10.0.0.7"}, {"node": ""}, {"port": 22}, {"port": None},
        {"port": 6817}, {"port": 70_000}, {"loopback": True}, {"port": None, "socket": "/tmp/x/vllm.sock"},
    ],
)  # fmt: skip
def test_target_of_an_attached_server_elsewhere_is_refused_although_signed(change: dict[str, object]) -> None:
    target = ATTACHED.model_copy(update=change)
    problem = SIGNER.problem(0, SIGNER.signed(0, target))
    assert problem and "signature" not in problem


def test_job_does_not_become_an_attached_server_or_back() -> None:
    for target in (ON_PORT, ATTACHED):
        forged = SIGNER.signed(0, target).model_copy(update={"attached": not target.attached})
        assert "no valid signature" in SIGNER.problem(0, forged)


@given(node=st.text(), deployment=st.text(), moved=st.integers(1, 5))
def test_signature_covers_where_one_field_ends(node: str, deployment: str, moved: int) -> None:
    target = SlotTarget(node=node, port=20_001, deployment=deployment)
    shifted = target.model_copy(update={"node": node + deployment[:moved], "deployment": deployment[moved:]})
    signed = SIGNER.signed(0, target)
    same = shifted == target
    assert (SIGNER.problem(0, shifted.model_copy(update={"signature": signed.signature})) == "") == same


def test_ports_and_socket_are_those_of_the_job_scripts() -> None:
    spec = importlib.util.spec_from_file_location("network", NETWORK)
    assert spec is not None and spec.loader is not None
    network = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(network)
    assert (network.PORTS, network.SOCKET) == (JOB_PORTS, JOB_SOCKET)
