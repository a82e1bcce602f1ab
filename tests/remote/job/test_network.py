"""Free ports, addresses and interfaces of a node; vLLM's metrics as probe_vllm.py reads them."""

from __future__ import annotations

import socket

import network
import pytest
from probe_vllm import work_done

METRICS = """\
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} %s
vllm:num_requests_waiting{engine="0"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 5.0
vllm:prompt_tokens_total{engine="0"} 1.5e+03
vllm:generation_tokens_total{engine="0"} %s
python_gc_objects_total 7
"""


def test_free_port_is_below_outgoing_range_and_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = network.free_ports(1)
    assert 20_000 <= port < 32_000
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        monkeypatch.setattr(network, "PORTS", [port] * 200)
        with pytest.raises(OSError, match="no free port"):
            network.free_ports(1)


def test_address_towards_host_has_interface() -> None:
    assert network.address_towards("localhost") == "127.0.0.1"
    assert network.network_environment("127.0.0.1")["GLOO_SOCKET_IFNAME"] == "lo"
    assert network.network_environment("192.0.2.1") == {"VLLM_HOST_IP": "192.0.2.1"}
    with pytest.raises(OSError, match=r"no route from \S+ to no-such-host\.invalid"):
        network.address_towards("no-such-host.invalid")


def test_work_done_is_busy_or_grows() -> None:
    assert work_done(METRICS % ("1.0", "10.0")) == "busy"
    assert work_done(METRICS % ("0.0", "10.0")) == "1510"
    assert work_done(METRICS % ("0.0", "11.0")) == "1511"
