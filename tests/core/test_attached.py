"""Attached servers: where one may be, and how its key is kept."""

from __future__ import annotations

import ipaddress

import pytest
from bouchet_core import tunnel
from bouchet_core.deployments.attached import AttachRequest, node_problem, port_problem
from bouchet_core.keys import ATTACHED_SEAL, attach_secret, job_key, seal_attached_key
from bouchet_gateway.slots import forward
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from setup.files.container_files import derive

SECRET, JOB = "serving-secret", "attached-aa"
KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=512)


@pytest.mark.parametrize("node", ["h07", "a1102u01n01", "gpu-7.cluster.example.org", "n1", "7up", "0xcafe-1"])
def test_name_of_a_node_is_accepted(node: str) -> None:
    assert node_problem(node) == ""


@pytest.mark.parametrize(
    "node",
    [
        "localhost", "LOCALHOST", "localhost.", "foo.localhost", "localhost4.localdomain4", "ip6-loopback", "127.1",
        "2130706433", "0x7f000001", "0177.0.0.1", "10.0.0.7", "::1", "[::1]", "node 1", "node1\n", "-n", "n_1", "é",
        "", "a" * 254, "node1/", "user@node1", "node1:22", "node1.",
    ],
)  # fmt: skip
def test_other_hosts_are_refused(node: str) -> None:
    assert node_problem(node)


@given(address=st.ip_addresses())
def test_no_address_passes_for_a_node(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert node_problem(str(address))
    assert node_problem(str(int(address)))


@pytest.mark.parametrize("port", [None, 0, 22, 80, 1023, 6817, 6818, 6819, 65_536, -1])
def test_ports_of_services_are_refused(port: int | None) -> None:
    assert port_problem(port)
    assert port_problem(1024) == port_problem(8000) == port_problem(65_535) == ""


@given(key=KEYS)
def test_sealed_key_of_any_length_opens_with_the_same_secret_and_job_only(key: str) -> None:
    sealed = seal_attached_key(attach_secret(SECRET), JOB, key)
    assert job_key(SECRET, JOB, sealed) == key
    if len(key) > 8:
        assert (
            key not in sealed and job_key("other", JOB, sealed) != key and job_key(SECRET, "attached-b", sealed) != key
        )


@pytest.mark.parametrize("sealed", [ATTACHED_SEAL + "zz", ATTACHED_SEAL + "f"])
def test_damaged_seal_opens_nothing(sealed: str) -> None:
    assert job_key(SECRET, JOB, sealed) == "unreadable"


def test_setup_derives_the_secret_that_worker_and_proxy_derive() -> None:
    assert attach_secret(SECRET) == derive(SECRET, "keys of attached servers")


def test_gateway_remembers_no_target_for_longer_than_an_attach_waits() -> None:
    assert max(forward.TARGET_TTL_S, forward.STALE_TTL_S) < tunnel.SLOT_SETTLED_S


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "é", "x" * 513, "", "tab\t"])
def test_key_that_is_no_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AttachRequest.model_validate({"name": "x", "node": "n1", "port": 8000, "key": key})
    assert not key or key not in str(caught.value)


def test_request_does_not_show_its_key() -> None:
    request = AttachRequest.model_validate({"name": "x", "node": "n1", "port": 8000, "key": "sk-secret"})
    assert "sk-secret" not in repr(request) + str(request.model_dump(mode="json"))
