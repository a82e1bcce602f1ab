"""vllm-serve.sbatch under bash and Python 3.6: what it refuses, what it starts, how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.compute_node import (
    BOTH,
    JOB_ID,
    KEY,
    OLDEST,
    SCRIPTS,
    ComputeNode,
    make_compute_node,
    mode_of,
    request_status,
    running,
    write_program,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputeNode]:
    """Run one job that serves, for the tests that only read."""
    node = make_compute_node(tmp_path_factory.mktemp("served"), OLDEST)
    node.environment["SLURM_JOB_NODELIST"] = "node[7-8]"
    with running(node):
        node.connection()
        yield node


@pytest.mark.parametrize("node", BOTH, indirect=True)
def test_job_serves_and_writes_connection_file(node: ComputeNode) -> None:
    node.start()
    connection = node.connection()
    expected = ("node7", "bouchet-aa-1", "Org/Name", 4096)
    assert (connection["node"], connection["job_name"], connection["model"], connection["window"]) == expected
    assert connection["image_sha256"] == hashlib.sha256(b"an image").hexdigest()
    assert (connection["gpus"], connection["driver"]) == (["NVIDIA H200"], "580.95.05")
    assert (connection["vllm"], connection["image"], connection["proves"]) == ("0.32.0", "pin.sif", True)
    assert mode_of(node.connection_file) == 0o600
    node.healthy_heartbeat()
    assert request_status(connection["port"], "/metrics") == 200
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert node.end()["kind"] == "stopped"
    left = {path.name for path in (node.root / "logs").iterdir()}
    assert left == {f"{JOB_ID}.log", f"end-{JOB_ID}.json"}
    assert node.left_behind() == []


def test_apptainer_gets_binds_arguments_and_environment(served: ComputeNode) -> None:
    connection = served.connection()
    record = served.record()
    assert {"--nv", "--cleanenv", "--no-home"} <= set(record["flags"])
    assert set(record["binds"]) == {
        "/tmp",
        "/bouchet/job",
        "/bouchet/remote",
        "/bouchet/cache",
        f"{served.root}/models",
    }
    assert record["binds"]["/bouchet/cache"].startswith(str(served.temporary)), (
        "kernels are compiled on the node's own disk"
    )
    command = record["command"]
    assert command[command.index("vllm") :] == [
        *("vllm", "serve", f"{served.root}/models/Org/Name", "--host", "0.0.0.0", "--port", str(connection["port"])),
        *("--max-model-len", "4096", "--x", 'a\'; echo $(nasty) "b" *'),
    ]
    given = {name.removeprefix("APPTAINERENV_"): value for name, value in record["environment"].items()}
    assert given.pop("VLLM_API_KEY") == KEY
    assert given["PYTHONPATH"] == "/bouchet/remote:/own/plugins"
    assert given["HF_HUB_OFFLINE"] == given["PYTHONNOUSERSITE"] == "1"
    assert (given["VLLM_CACHE_ROOT"], given["CUDA_VISIBLE_DEVICES"]) == ("/bouchet/cache/vllm", "3")


def test_connection_file_has_container_command_without_key(served: ComputeNode) -> None:
    connection = served.connection()
    software = connection["software"]
    command = software["container"]
    assert command[:3] == ["apptainer", "exec", "--nv"]
    started = served.record()["command"]
    assert command[command.index("vllm-serve") + 1 :] == started[-len(connection["command"]) - 4 :]
    given = {name.removeprefix("APPTAINERENV_"): value for name, value in served.record()["environment"].items()}
    del given["VLLM_API_KEY"]
    assert software["environment"] == given
    assert KEY not in served.connection_file.read_text()
    assert (software["quant"], connection["weights"]["how"], connection["nodelist"]) == ("none", "headers", "node[7-8]")


def test_model_at_other_commit_than_pinned_is_refused(node: ComputeNode) -> None:
    node.spec["model_revision"] = "c0ffee"
    (node.root / "models" / "Org" / "Name" / "REVISION").write_text("badcafe")
    assert node.run() == 1
    sentence = node.end()["sentence"]
    assert "is at commit badcafe, but this launch needs c0ffee" in sentence and "--revision c0ffee" in sentence


def test_key_is_in_no_command_line(served: ComputeNode) -> None:
    assert KEY not in json.dumps(served.record()["command"])
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert KEY.encode() not in entry.read_bytes(), entry
        except OSError:
            continue


@pytest.mark.slow
def test_usr1_finishes_running_requests_before_time_limit(node: ComputeNode) -> None:
    node.start()
    port = node.connection()["port"]
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(request_status(port, "/slow")))
    slow.start()
    scratch = next(node.temporary.iterdir())
    node.wait_for(lambda: (scratch / "slow").exists())
    node.signal(signal.SIGUSR1)
    slow.join(60)
    assert answers == [200]
    assert node.wait() == 0
    assert node.end()["kind"] == "walltime"
    assert node.left_behind() == []


@pytest.mark.slow
def test_term_kills_stubborn_vllm_before_slurm_does(node: ComputeNode) -> None:
    node.mode = "stubborn"
    node.start()
    node.connection()
    began = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    # Slurm waits 30 s (KillWait) before it kills
    assert time.monotonic() - began < 25
    assert node.end()["kind"] == "stopped" and node.left_behind() == []


def test_vllm_crash_ends_job_with_error_lines(node: ComputeNode) -> None:
    node.mode = "crash"
    assert node.run() == 3
    end = node.end()
    assert (end["kind"], end["exit_status"]) == ("vllm_exited", 3)
    assert end["tail"] == ["ValueError: no such tool parser"]
    assert node.left_behind() == []


@pytest.mark.slow
def test_taken_port_is_replaced(node: ComputeNode) -> None:
    node.mode = "port taken"
    node.start()
    node.wait_for(lambda: "trying another one" in node.log())
    node.wait_for(lambda: node.log().count("starting the container") == 2)
    assert request_status(node.connection()["port"], "/health") == 200
    node.signal(signal.SIGTERM)
    assert node.wait() == 0 and node.end()["kind"] == "stopped" and node.left_behind() == []


@pytest.mark.slow
def test_idle_job_warns_and_ends(node: ComputeNode) -> None:
    node.spec["idle_timeout_s"] = 2
    assert node.run() == 0
    assert node.end()["kind"] == "idle"
    assert re.fullmatch("idle for [2-9] s", node.end()["sentence"])
    assert node.log().count("the job ends after 2 s without a request") == 1


@pytest.mark.slow
def test_idle_timeout_zero_never_ends_job(node: ComputeNode) -> None:
    node.start()
    node.connection()
    node.wait_for(lambda: node.healthy_heartbeat()["idle_s"] >= 2)
    assert node.process is not None and node.process.poll() is None


# refusals


def test_changed_image_is_refused(node: ComputeNode) -> None:
    Path(node.spec["image"]).write_bytes(b"an imagE")
    assert "is not the pinned one" in node.refuse()


def test_site_hash_overrides_recorded_hash(node: ComputeNode) -> None:
    node.spec["image_sha256"] = "0" * 64
    assert "is not the pinned one" in node.refuse()


@pytest.mark.slow
def test_truncated_image_is_refused_despite_noted_hash(node: ComputeNode) -> None:
    node.mode = "crash"
    assert node.run() == 3
    Path(node.spec["image"]).write_bytes(b"an im")
    (node.root / "record.json").unlink()
    assert "is not the pinned one" in node.refuse()


@pytest.mark.slow
def test_hash_of_unchanged_image_is_computed_once(node: ComputeNode) -> None:
    node.mode = "crash"
    node.run()
    (note,) = (node.root / "cache" / "hashes").iterdir()
    note.write_text("f" * 64 + "\n")
    (node.root / "record.json").unlink()
    assert "ffffffffffff" in node.refuse(), "the noted hash was not read"


@pytest.mark.parametrize(
    "content", [None, *(pytest.param(text, marks=pytest.mark.slow) for text in ("", "no hash here\n"))]
)
def test_image_without_recorded_hash_is_refused(node: ComputeNode, content: str | None) -> None:
    beside = Path(f"{node.spec['image']}.sha256")
    beside.unlink()
    if content is not None:
        beside.write_text(content)
    assert "build" in node.refuse()


@pytest.mark.slow
def test_driver_too_old_for_image_is_refused(node: ComputeNode) -> None:
    manifest = {"torch": "2.13.0", "cuda": "13.0", "min_driver": "580"}
    (node.root / "images" / "pin.manifest.json").write_text(json.dumps(manifest))
    write_program(node.root / "bin" / "nvidia-smi", 'echo "NVIDIA H200, 570.124.06"')
    assert "the driver 570.124.06 on node7 is too old for pin.sif: CUDA 13.0 needs 580 or newer" in node.refuse()
    write_program(node.root / "bin" / "nvidia-smi", "exit 9")
    assert "nvidia-smi finds no NVIDIA driver on node7" in node.refuse()
    write_program(node.root / "bin" / "nvidia-smi", 'echo "NVIDIA H200, 580.95.05"')
    node.start()
    assert node.connection()["torch"] == "2.13.0"


@pytest.mark.slow
def test_missing_image_and_model_are_refused(node: ComputeNode) -> None:
    model = node.root / "models/Org/Name/config.json"
    model.unlink()
    assert "bouchet download Org/Name" in node.refuse()
    Path(node.spec["image"]).unlink()
    assert "there is no image" in node.refuse()


def test_missing_key_is_refused(node: ComputeNode) -> None:
    (node.job_dir / "key").unlink()
    assert "key file" in node.refuse()


@pytest.mark.slow
def test_setup_lines_run_first_and_their_failure_is_refused(node: ComputeNode) -> None:
    (node.job_dir / "setup.sh").write_text("export APPTAINERENV_FROM_SETUP=yes\n")
    node.mode = "crash"
    node.run()
    assert node.record()["environment"]["APPTAINERENV_FROM_SETUP"] == "yes"
    (node.root / "record.json").unlink()
    (node.job_dir / "setup.sh").write_text("false\n")
    assert "setup lines" in node.refuse()


def test_term_before_start_ends_job(node: ComputeNode) -> None:
    (node.job_dir / "setup.sh").write_text("sleep 30\n")
    process = node.start()
    node.wait_for(lambda: "setting up" in node.log())
    time.sleep(0.2)
    # Slurm signals every process of the job
    os.killpg(process.pid, signal.SIGTERM)
    assert node.wait() == 0
    assert node.end()["kind"] == "stopped" and node.left_behind() == []


# models


@pytest.mark.slow
def test_hub_cache_serves_revision_of_main(node: ComputeNode) -> None:
    shutil.rmtree(node.root / "models/Org")
    repository = node.root / "models" / "models--Org--Name"
    for revision in ("aaa", "bbb"):
        (repository / "snapshots" / revision).mkdir(parents=True)
        (repository / "snapshots" / revision / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa")
    node.start()
    connection = node.connection()
    assert connection["model_revision"] == "aaa" and connection["command"][2].endswith("/snapshots/aaa")


@pytest.mark.slow
def test_linked_model_folder_is_bound(node: ComputeNode) -> None:
    elsewhere = node.root / "shared" / "Name"
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.json").write_text("{}")
    shutil.rmtree(node.root / "models/Org/Name")
    (node.root / "models/Org/Name").symlink_to(elsewhere)
    node.start()
    node.connection()
    assert str(elsewhere) in node.record()["binds"]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "kept"), [('{"quantization_config": {"quant_method": "x"}}', False), ("{}", True)])
def test_quantized_checkpoint_drops_quantization_argument(node: ComputeNode, config: str, kept: bool) -> None:
    (node.root / "models/Org/Name/config.json").write_text(config)
    (node.job_dir / "vllm.args").write_text("--quantization\nfp8\n--last\n")
    node.mode = "crash"
    node.run()
    assert ("--quantization" in node.record()["command"]) is kept
    assert node.record()["command"][-1] == "--last"


@pytest.mark.slow
def test_requeued_job_removes_files_of_first_run(node: ComputeNode) -> None:
    node.connection_file.write_text("{}")
    (node.root / "logs" / f"end-{JOB_ID}.json").write_text("{}")
    node.start()
    assert node.connection()["port"]
    assert not (node.root / "logs" / f"end-{JOB_ID}.json").exists()


@pytest.mark.slow
def test_scripts_pass_shellcheck() -> None:
    binary = shutil.which("shellcheck")
    assert binary, "shellcheck is not installed"
    scripts = [str(path) for path in sorted(SCRIPTS.iterdir()) if path.suffix in (".sh", ".sbatch")]
    assert len(scripts) == 5
    done = subprocess.run([binary, *scripts], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
