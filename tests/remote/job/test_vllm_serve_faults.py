"""vllm-serve.sbatch where the node or its disks are at fault: it ends, says why where it can, and leaves nothing."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from tests.remote.compute_node import JOB_ID, ComputeNode

UNWRITABLE = 73


def test_a_damaged_model_is_refused_before_vllm_is_started(node: ComputeNode) -> None:
    (node.root / "models/Org/Name/config.json").write_text('{"architectures": [')
    sentence = node.refuse()
    assert "config.json is broken" in sentence and "`bouchet download Org/Name`" in sentence


def test_a_models_folder_that_cannot_be_read_is_no_missing_model(node: ComputeNode) -> None:
    node.spec["models_dir"] = str(node.root / "gone")
    sentence = node.refuse()
    assert f"{node.root}/gone on node7: No such file" in sentence and "download" not in sentence


def test_disks_that_give_nothing_hold_no_gpu_for_ever(node: ComputeNode) -> None:
    node.environment["BOUCHET_PREPARE_S"] = "2"
    image = Path(node.spec["image"])
    image.unlink()
    os.mkfifo(image)
    assert "could not be read on node7 within 0 min: its disks do not answer" in node.refuse()


def test_a_missing_apptainer_is_named(node: ComputeNode) -> None:
    node.spec["apptainer"] = "apptainer-9"
    assert "there is no apptainer-9 on node7" in node.refuse()


def test_without_python_the_end_is_told_all_the_same(node: ComputeNode) -> None:
    tools = node.root / "bin"
    (tools / "python3").unlink()
    for name in ("bash", "timeout", "mktemp", "flock", "mv", "rm", "cat", "sleep", "kill", "pgrep", "mkdir", "sed"):
        for place in ("/usr/bin", "/bin"):
            if not (tools / name).exists() and Path(place, name).exists():
                (tools / name).symlink_to(f"{place}/{name}")
    node.path = str(tools)
    assert "there is no python3 on node7" in node.refuse()
    assert node.end()["job_name"] == "bouchet-aa-1" and node.end()["exit_status"] == 1


def test_a_disk_that_does_not_answer_holds_no_gpu(node: ComputeNode) -> None:
    node.environment["BOUCHET_DISK_S"] = "1"
    process = node.start()
    node.connection()
    (node.job_dir / "spec.json").unlink()
    os.mkfifo(node.job_dir / "spec.json")
    # the vLLM inside is the last of them
    server = max(pid for pid, words in node.processes().items() if "apptainer_program" in words)
    os.kill(server, 9)
    assert process.wait(60) == 137
    assert node.end()["sentence"] == "vLLM ended with status 137" and node.left_behind() == []


def test_where_nothing_can_be_written_slurm_is_told(node: ComputeNode) -> None:
    node.mode = "crash"
    notes = [node.root / "logs" / f"{name}-{JOB_ID}.json" for name in ("connection", "end")]
    for note in notes:
        # nothing can be renamed to a folder's name, not even by root
        note.mkdir()
    assert node.run() == UNWRITABLE
    assert "Is a directory" in node.log() and node.left_behind() == []
    left = {path for path in (node.root / "logs").iterdir() if path.suffix != ".log"}
    assert left == set(notes) and not any(list(note.iterdir()) for note in notes), "nothing is half-written"


def test_what_died_with_its_node_is_swept_and_what_lives_is_not(node: ComputeNode) -> None:
    dead, living, foreign = (
        node.temporary / name for name in ("bouchet-5-abcdef", "bouchet-6-abcdef", "other-7-abcdef")
    )
    for folder in (dead, living, foreign):
        folder.mkdir()
        (folder / "alive").touch()
    with (living / "alive").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        node.mode = "crash"
        node.run()
        assert {path.name for path in node.temporary.iterdir()} == {living.name, foreign.name}


def test_a_vllm_that_waits_for_clients_for_ever_is_gone_before_the_walltime(node: ComputeNode) -> None:
    node.mode = "stubborn"
    with (node.job_dir / "vllm.args").open("a") as arguments:
        arguments.write("--shutdown-timeout\n1\n")
    node.start()
    node.connection()
    node.signal(signal.SIGUSR1)
    assert node.wait() == 0
    assert node.end()["kind"] == "walltime" and node.left_behind() == []


def test_what_went_wrong_before_the_last_start_is_not_its_end(node: ComputeNode) -> None:
    node.mode = "port taken"
    node.start()
    node.wait_for(lambda: node.log().count("starting the container") == 2)
    node.connection()
    server = max(pid for pid, words in node.processes().items() if "apptainer_program" in words)
    os.kill(server, signal.SIGKILL)
    assert node.wait() == 137
    assert "ddress already in use" in node.log() and node.end()["tail"] == []
