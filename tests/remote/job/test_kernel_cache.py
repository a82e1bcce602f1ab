"""Compiled kernels: used on the node's disk, saved in layers on the cluster's, complete or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from kernel_cache import layers_folder

from tests.remote.compute_node import OLDEST, SCRIPTS, ComputeNode
from tests.waiting import wait_for


class CachingJob:
    """One run: its cache on the node, the folder of the layers, its first node's heartbeat."""

    def __init__(self, root: Path, name: str) -> None:
        self.layers = root / "shared"
        self.name, self.cache, self.heartbeat = name, root / name / "cache", root / f"heartbeat-{name}.json"
        self.cache.parent.mkdir()

    def fetch(self) -> CachingJob:
        code = f"import sys; sys.path[0] = {str(SCRIPTS)!r}; import kernel_cache; kernel_cache.fetch(*sys.argv[1:])"
        subprocess.run([OLDEST, "-c", code, str(self.layers), str(self.cache)], check=True)
        return self

    def compile(self, **kernels: str) -> CachingJob:
        for name, content in kernels.items():
            path = self.cache / "triton" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        return self

    def answer(self) -> CachingJob:
        self.heartbeat.write_text('{"state": "ok"}')
        return self

    def save(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv("save"), stderr=subprocess.PIPE, text=True)

    def argv(self, command: str) -> list[str]:
        return [OLDEST, str(SCRIPTS / "kernel_cache.py"), command, str(self.heartbeat), str(self.cache), self.name]

    def kernels(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((self.cache / "triton").glob("*"))}

    def saved(self) -> list[str]:
        return sorted(path.name for path in self.layers.glob("*"))


def test_next_job_has_compiled_kernels(tmp_path: Path) -> None:
    first = CachingJob(tmp_path, "one").fetch().compile(a="1", b="2").answer()
    (first.cache / "triton" / "b").chmod(0o755)
    assert first.save().returncode == 0
    second = CachingJob(tmp_path, "two").fetch()
    assert second.kernels() == {"a": "1", "b": "2"}
    assert os.access(second.cache / "triton" / "b", os.X_OK) and not os.access(second.cache / "triton" / "a", os.X_OK)
    first_time, second_time = ((job.cache / "triton" / "a").stat().st_mtime for job in (first, second))
    assert abs(first_time - second_time) < 1


def test_only_new_kernels_are_saved(tmp_path: Path) -> None:
    CachingJob(tmp_path, "one").fetch().compile(a="1").answer().save()
    second = CachingJob(tmp_path, "two").fetch().answer()
    second.save()
    assert len(second.saved()) == 1
    second.compile(b="2").save()
    second.save()
    (_, newer) = second.saved()
    with tarfile.open(second.layers / newer) as layer:
        assert layer.getnames() == ["triton/b"]


def test_parallel_jobs_save_both(tmp_path: Path) -> None:
    one, two = (
        CachingJob(tmp_path, name).fetch().compile(**{name: name}, same="s").answer() for name in ("one", "two")
    )
    running = [subprocess.Popen(job.argv("save")) for job in (one, two)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert CachingJob(tmp_path, "three").fetch().kernels() == {"one": "one", "two": "two", "same": "s"}


@pytest.mark.slow
def test_many_layers_become_one(tmp_path: Path) -> None:
    for number in range(6):
        CachingJob(tmp_path, f"job{number}").fetch().compile(**{f"k{number}": str(number)}).answer().save()
    last = CachingJob(tmp_path, "last").fetch().answer()
    assert last.kernels() == {f"k{number}": str(number) for number in range(6)}
    assert last.saved() == [name for name in last.saved() if name.endswith("-job5.tar")], "one layer, of the sixth job"


def test_kernels_of_job_that_never_answered_are_not_saved(tmp_path: Path) -> None:
    job = CachingJob(tmp_path, "one").fetch().compile(a="1")
    assert job.save().returncode == 0 and job.saved() == []
    job.heartbeat.write_text('{"state": "failing"}')
    assert job.save().returncode == 0 and job.saved() == []


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_truncated_layer_gives_complete_files_only(tmp_path: Path, share: float) -> None:
    first = CachingJob(tmp_path, "one").fetch().compile(a="a" * 20_000, b="b" * 20_000, c="c" * 20_000).answer()
    first.save()
    (name,) = first.saved()
    data = (first.layers / name).read_bytes()
    (first.layers / name).write_bytes(data[: int(len(data) * share)])
    second = CachingJob(tmp_path, "two").fetch()
    found = second.kernels()
    assert len(found) < 3 and all(found[key] == key * 20_000 for key in found)


def test_other_files_are_not_saved(tmp_path: Path) -> None:
    job = CachingJob(tmp_path, "one").fetch().compile(a="1").answer()
    for name in ("hf/modules/x.py", "vllm/gpu_p2p_access_cache_for_0.json", "vllm/assets/x", "triton/x.lock"):
        path = job.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (job.cache / "triton" / "link").symlink_to("/etc/passwd")
    job.save()
    with tarfile.open(job.layers / job.saved()[0]) as layer:
        assert layer.getnames() == ["triton/a"]


def test_layer_writes_below_cache_only(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("x")
    (tmp_path / "shared").mkdir()
    with tarfile.open(tmp_path / "shared" / "1.tar", "w") as layer:
        for name in ("triton/../../../escaped", "/tmp/escaped", "other/x", "triton/good"):
            layer.add(evil, name)
    assert CachingJob(tmp_path, "one").fetch().kernels() == {"good": "x"}
    assert not (tmp_path / "escaped").exists()


def test_full_disk_leaves_no_partial_layer(tmp_path: Path) -> None:
    job = CachingJob(tmp_path, "one").fetch().compile(a="1" * 100_000).answer()
    limited = "ulimit -f 16; trap '' XFSZ; exec \"$@\""
    done = subprocess.run(["bash", "-c", limited, "limited", *job.argv("save")], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "could not be saved" in done.stderr
    assert job.saved() == []


def test_term_ends_wait_for_answer(tmp_path: Path) -> None:
    job = CachingJob(tmp_path, "one").fetch().compile(a="1")
    waiting = subprocess.Popen(job.argv("when-ready"))
    time.sleep(0.5)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(60) != 0 and job.saved() == []


def test_abandoned_layers_are_removed(tmp_path: Path) -> None:
    job = CachingJob(tmp_path, "one").fetch().compile(a="1").answer()
    job.layers.mkdir()
    for name, age_s in (("old.tar.7.new", 90_000), ("young.tar.8.new", 60)):
        (job.layers / name).write_text("half")
        os.utime(job.layers / name, (time.time() - age_s,) * 2)
    job.save()
    assert "young.tar.8.new" in job.saved() and "old.tar.7.new" not in job.saved()


def test_layers_folder_differs_by_image_model_and_size(tmp_path: Path) -> None:
    spec = {"root": "/r", "model": "Org/Name", "nodes": 1, "gpus": 2}
    assert layers_folder(spec, "ab" * 32) == "/r/cache/abababababababab/Org--Name-1x2"
    others = [layers_folder({**spec, **other}, digest) for other, digest in (({"gpus": 8}, "ab" * 32), ({}, "cd" * 32))]
    assert len({layers_folder(spec, "ab" * 32), *others}) == 3
    assert "/../" not in layers_folder({**spec, "model": "../.."}, "ab" * 32)


@pytest.mark.slow
def test_job_saves_kernels_once_it_answers(node: ComputeNode) -> None:
    node.environment["FAKE_APPTAINER_KERNEL"] = "triton/k"
    for _ in range(2):
        node.start()
        node.connection()
        node.healthy_heartbeat()
        # at its end the job may have no time left to save them
        wait_for(lambda: list((node.root / "cache").glob("*/Org--Name-1x1/*.tar")))
        node.stop()
        assert node.left_behind() == []
        (node.root / "record.json").rename(node.root / "record-before.json")
    (layer,) = (node.root / "cache").glob("*/Org--Name-1x1/*.tar")
    with tarfile.open(layer) as kept:
        assert kept.getnames() == ["triton/k"]
    assert "found triton/k" in node.log()
