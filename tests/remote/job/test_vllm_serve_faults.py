"""vllm-serve.sbatch on a faulty node or disk: it ends, writes why if it can, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.remote.compute_node import JOB_ID, ComputeNode

UNWRITABLE = 73


def test_damaged_model_is_refused_before_start(node: ComputeNode) -> None:
    (node.root / "models/Org/Name/config.json").write_text('{"architectures": [')
    sentence = node.refuse()
    assert "config.json is damaged" in sentence and "`bouchet download Org/Name`" in sentence


def test_unreadable_models_dir_is_reported_as_disk_error(node: ComputeNode) -> None:
    node.spec["models_dir"] = str(node.root / "gone")
    sentence = node.refuse()
    assert f"{node.root}/gone on node7: No such file" in sentence and "download" not in sentence


@pytest.mark.slow
def test_silent_disk_ends_preparation(node: ComputeNode) -> None:
    node.environment["BOUCHET_PREPARE_S"] = "2"
    image = Path(node.spec["image"])
    image.unlink()
    os.mkfifo(image)
    assert "could not be read on node7 within 0 min: its disks do not answer" in node.refuse()


def test_missing_apptainer_is_refused(node: ComputeNode) -> None:
    node.spec["apptainer"] = "apptainer-9"
    assert "there is no apptainer-9 on node7" in node.refuse()


def test_end_record_is_written_without_python(node: ComputeNode) -> None:
    tools = node.root / "bin"
    (tools / "python3").unlink()
    for name in ("bash", "timeout", "mktemp", "flock", "mv", "rm", "cat", "sleep", "kill", "pgrep", "mkdir", "sed"):
        for folder in ("/usr/bin", "/bin"):
            if not (tools / name).exists() and Path(folder, name).exists():
                (tools / name).symlink_to(f"{folder}/{name}")
    node.path = str(tools)
    assert "there is no python3 on node7" in node.refuse()
    assert node.end()["job_name"] == "bouchet-aa-1" and node.end()["exit_status"] == 1


@pytest.mark.parametrize(("lines", "status"), [("exit 3\n", 3), ("exit\n", 0), ("set -u\n: $GONE\n", 1)])
def test_setup_lines_that_end_the_script_are_on_record(node: ComputeNode, lines: str, status: int) -> None:
    (node.job_dir / "setup.sh").write_text(lines)
    assert node.run() == status
    assert (node.end()["kind"], node.end()["exit_status"]) == ("refused", status)
    assert f"setup lines ended the job with status {status}" in node.end()["sentence"]
    assert node.left_behind() == [] and node.log().count("bouchet: ended:") == 1


def test_setup_lines_with_set_e_do_not_end_the_script_later(node: ComputeNode) -> None:
    (node.job_dir / "setup.sh").write_text("set -e\n")
    node.mode = "crash"
    assert node.run() != 0
    assert node.end()["kind"] == "vllm_exited" and "vLLM exited with status" in node.end()["sentence"]


@pytest.mark.slow
def test_silent_disk_does_not_delay_end(node: ComputeNode) -> None:
    node.environment["BOUCHET_DISK_S"] = "1"
    process = node.start()
    node.connection()
    (node.job_dir / "spec.json").unlink()
    os.mkfifo(node.job_dir / "spec.json")
    os.kill(node.vllm_pid(), signal.SIGKILL)
    assert process.wait(60) == 137
    assert node.end()["sentence"] == "vLLM exited with status 137" and node.left_behind() == []


@pytest.mark.slow
def test_unwritable_logs_give_exit_status_73(node: ComputeNode) -> None:
    node.mode = "crash"
    records = [node.root / "logs" / f"{name}-{JOB_ID}.json" for name in ("connection", "end")]
    for record in records:
        # a file cannot be renamed to a folder's name, not even by root
        record.mkdir()
    assert node.run() == UNWRITABLE
    assert "Is a directory" in node.log() and node.left_behind() == []
    left = {path for path in (node.root / "logs").iterdir() if path.suffix != ".log"}
    assert left == set(records) and not any(list(record.iterdir()) for record in records), "no temporary file is left"


@pytest.mark.slow
def test_scratch_of_dead_jobs_is_removed(node: ComputeNode) -> None:
    names = ("bouchet-5-node7-abcdef", "bouchet-6-node7-abcdef", "other-7-node7-abcdef")
    dead, alive, foreign = (node.temporary / name for name in names)
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "alive").touch()
    with (alive / "alive").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        node.mode = "crash"
        node.run()
        assert {path.name for path in node.temporary.iterdir()} == {alive.name, foreign.name}


@pytest.mark.slow
def test_scratch_of_other_nodes_on_a_shared_disk_is_kept(node: ComputeNode) -> None:
    others = {"bouchet-5-node8-abcdef", "bouchet-5-gpu-node7-abcdef"}
    for name in others:
        (node.temporary / name).mkdir()
        (node.temporary / name / "alive").touch()
    node.mode = "crash"
    node.run()
    assert {path.name for path in node.temporary.iterdir()} == others


@pytest.mark.slow
def test_usr1_kills_vllm_that_waits_for_clients(node: ComputeNode) -> None:
    node.mode = "stubborn"
    with (node.job_dir / "vllm.args").open("a") as arguments:
        arguments.write("--shutdown-timeout\n1\n")
    node.start()
    node.connection()
    node.signal(signal.SIGUSR1)
    assert node.wait() == 0
    assert node.end()["kind"] == "walltime" and node.left_behind() == []


@pytest.mark.slow
def test_end_record_has_errors_of_last_start_only(node: ComputeNode) -> None:
    node.mode = "port taken"
    node.start()
    node.wait_for(lambda: node.log().count("starting the container") == 2)
    node.connection()
    os.kill(node.vllm_pid(), signal.SIGKILL)
    assert node.wait() == 137
    assert "ddress already in use" in node.log() and node.end()["tail"] == []
