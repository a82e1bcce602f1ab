"""job_files.py and probe_vllm.py by themselves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.remote.compute_node import load, mode_of


def test_a_file_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    jobfile = load("job_files")
    path = tmp_path / "c.json"
    old = os.umask(0)
    try:
        jobfile.write_json(str(path), {"a": 1})
        reader = path.open()
        jobfile.write_json(str(path), {"a": 2})
    finally:
        os.umask(old)
    with reader:
        assert '"a": 1' in reader.read(), "an open reader keeps the whole old file"
    assert '"a": 2' in path.read_text()
    assert mode_of(path) == 0o600 and list(tmp_path.iterdir()) == [path]


def test_free_ports_are_below_those_of_outgoing_connections() -> None:
    network = load("network")
    (port,) = network.free_ports(1)
    assert 20_000 <= port < 32_000
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        network.PORTS = [port] * 200
        with pytest.raises(OSError, match="no free port"):
            network.free_ports(1)


def test_an_address_is_the_one_on_the_way_and_has_an_interface() -> None:
    network = load("network")
    assert network.address_towards("localhost") == "127.0.0.1"
    assert network.network_environment("127.0.0.1")["GLOO_SOCKET_IFNAME"] == "lo"
    assert network.network_environment("192.0.2.1") == {"VLLM_HOST_IP": "192.0.2.1"}
    with pytest.raises(OSError, match=r"no way to no-such-host\.invalid"):
        network.address_towards("no-such-host.invalid")


def test_a_spec_of_another_version_is_refused(tmp_path: Path) -> None:
    jobfile = load("job_files")
    (tmp_path / "spec.json").write_text('{"version": 99}')
    with pytest.raises(jobfile.Refused, match="version 99"):
        jobfile.read_spec(str(tmp_path))


METRICS = """\
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} %s
vllm:num_requests_waiting{engine="0"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 5.0
vllm:prompt_tokens_total{engine="0"} 1.5e+03
vllm:generation_tokens_total{engine="0"} %s
python_gc_objects_total 7
"""


def test_work_is_what_vllm_has_done() -> None:
    watch = load("probe_vllm")
    assert watch.work_in(METRICS % ("1.0", "10.0")) == "busy"
    assert watch.work_in(METRICS % ("0.0", "10.0")) == "1510"
    assert watch.work_in(METRICS % ("0.0", "11.0")) == "1511"


def test_error_lines_lose_vllms_prefixes_and_nothing_else(tmp_path: Path) -> None:
    joblog = load("joblog")
    log = tmp_path / "log"
    log.write_bytes(
        b"fine\n\x1b[0;36m(EngineCore pid=3)\x1b[0;0m ERROR 11-22 10:00:00 [core.py:9] "
        b"torch.OutOfMemoryError: CUDA out of memory\n"
        b"RuntimeError: Engine core initialization failed.\n\xff\n"
    )
    assert joblog.error_lines(str(log)) == [
        "torch.OutOfMemoryError: CUDA out of memory",
        "RuntimeError: Engine core initialization failed.",
    ]
    assert joblog.error_lines(str(tmp_path / "none")) == []


def test_a_warning_of_an_error_is_none(tmp_path: Path) -> None:
    log = tmp_path / "7.log"
    log.write_text(
        "(APIServer pid=1) WARNING 11-22 16:34:31 [system_utils.py:255] errors like `OSError: [Errno 24] Too many`\n"
        "(APIServer pid=1) ERROR 11-22 17:09:07 [async_llm.py:906] vllm.EngineDeadError: EngineCore\n"
    )
    assert load("joblog").error_lines(str(log)) == ["vllm.EngineDeadError: EngineCore"]


def test_error_lines_show_no_keys(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: key abc123 and hf_abcdefghijkl, Authorization: Bearer xyz.1 refused\n")
    (line,) = load("joblog").error_lines(str(log), "abc123")
    assert line == "ValueError: key *** and ***, Authorization: Bearer *** refused"


def test_weights_that_scratch_will_delete_are_said(tmp_path: Path) -> None:
    purge_words = load("model_folder").purge_words
    (tmp_path / "config.json").write_text("{}")
    now = (tmp_path / "config.json").stat().st_mtime
    assert purge_words(str(tmp_path), 30, now + 10 * 86_400) == ""
    assert purge_words(str(tmp_path), None, now + 99 * 86_400) == ""
    assert "25 days old" in purge_words(str(tmp_path), 30, now + 25.5 * 86_400)
    assert "deleted after 30 days" in purge_words(str(tmp_path), 30, now + 40 * 86_400)
