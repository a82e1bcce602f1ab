"""What vllm_job.py finds in a job's log."""

from __future__ import annotations

from pathlib import Path

import vllm_job


def test_error_lines_drop_prefixes_of_vllm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"fine\n\x1b[0;36m(EngineCore pid=3)\x1b[0;0m ERROR 11-22 10:00:00 [core.py:9] "
        b"torch.OutOfMemoryError: CUDA out of memory\n"
        b"RuntimeError: Engine core initialization failed.\n\xff\n"
    )
    assert vllm_job.error_lines(str(log)) == [
        "torch.OutOfMemoryError: CUDA out of memory",
        "RuntimeError: Engine core initialization failed.",
    ]


def test_error_lines_of_missing_log_are_empty(tmp_path: Path) -> None:
    assert vllm_job.error_lines(str(tmp_path / "none")) == []


def test_error_lines_ignore_warnings_about_errors(tmp_path: Path) -> None:
    log = tmp_path / "7.log"
    log.write_text(
        "(APIServer pid=1) WARNING 11-22 16:34:31 [system_utils.py:255] errors like `OSError: [Errno 24] Too many`\n"
        "(APIServer pid=1) ERROR 11-22 17:09:07 [async_llm.py:906] vllm.EngineDeadError: EngineCore\n"
    )
    assert vllm_job.error_lines(str(log)) == ["vllm.EngineDeadError: EngineCore"]


def test_error_lines_mask_keys(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: key abc123 and hf_abcdefghijkl, Authorization: Bearer xyz.1 refused\n")
    (line,) = vllm_job.error_lines(str(log), "abc123")
    assert line == "ValueError: key *** and ***, Authorization: Bearer *** refused"


def test_found_port_taken_reads_log_from_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("OSError: [Errno 98] Address already in use\n")
    assert vllm_job.found_port_taken(str(log), 0)
    assert not vllm_job.found_port_taken(str(log), log.stat().st_size)
    assert not vllm_job.found_port_taken(str(tmp_path / "none"), 0)
