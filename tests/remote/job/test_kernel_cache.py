"""Compiled kernels: used on the node's disk, kept in layers on the cluster's, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS, ComputeNode, load


class Job:
    """One run: its cache on the node, the folder of the layers, its first node's heartbeat."""

    def __init__(self, root: Path, name: str) -> None:
        self.layers = root / "shared"
        self.name, self.cache, self.heartbeat = name, root / name / "cache", root / f"heartbeat-{name}.json"
        self.cache.parent.mkdir()

    def fetch(self) -> Job:
        words = f"import sys; sys.path[0] = {str(SCRIPTS)!r}; import kernel_cache; kernel_cache.fetch(*sys.argv[1:])"
        subprocess.run([OLDEST, "-c", words, str(self.layers), str(self.cache)], check=True)
        return self

    def compile(self, **kernels: str) -> Job:
        for name, content in kernels.items():
            path = self.cache / "triton" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        return self

    def answer(self) -> Job:
        self.heartbeat.write_text('{"state": "ok"}')
        return self

    def keep(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv("keep"), stderr=subprocess.PIPE, text=True)

    def argv(self, command: str) -> list[str]:
        return [OLDEST, str(SCRIPTS / "kernel_cache.py"), command, str(self.heartbeat), str(self.cache), self.name]

    def kernels(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((self.cache / "triton").glob("*"))}

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.layers.glob("*"))


def test_what_one_job_compiled_the_next_one_has(tmp_path: Path) -> None:
    first = Job(tmp_path, "one").fetch().compile(a="1", b="2").answer()
    (first.cache / "triton" / "b").chmod(0o755)
    assert first.keep().returncode == 0
    second = Job(tmp_path, "two").fetch()
    assert second.kernels() == {"a": "1", "b": "2"}
    assert os.access(second.cache / "triton" / "b", os.X_OK) and not os.access(second.cache / "triton" / "a", os.X_OK)
    first_time, second_time = ((job.cache / "triton" / "a").stat().st_mtime for job in (first, second))
    assert abs(first_time - second_time) < 1


def test_only_what_is_new_is_kept_and_nothing_without_news(tmp_path: Path) -> None:
    Job(tmp_path, "one").fetch().compile(a="1").answer().keep()
    second = Job(tmp_path, "two").fetch().answer()
    second.keep()
    assert len(second.kept()) == 1
    second.compile(b="2").keep()
    second.keep()
    (_, newer) = second.kept()
    with tarfile.open(second.layers / newer) as layer:
        assert layer.getnames() == ["triton/b"]


def test_jobs_side_by_side_keep_both(tmp_path: Path) -> None:
    one, two = (Job(tmp_path, name).fetch().compile(**{name: name}, same="s").answer() for name in ("one", "two"))
    running = [subprocess.Popen(job.argv("keep")) for job in (one, two)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert Job(tmp_path, "three").fetch().kernels() == {"one": "one", "two": "two", "same": "s"}


def test_many_layers_become_one(tmp_path: Path) -> None:
    for number in range(6):
        Job(tmp_path, f"job{number}").fetch().compile(**{f"k{number}": str(number)}).answer().keep()
    last = Job(tmp_path, "last").fetch().answer()
    assert last.kernels() == {f"k{number}": str(number) for number in range(6)}
    assert last.kept() == [name for name in last.kept() if name.endswith("-job5.tar")], "one layer, of the sixth job"


def test_kernels_of_a_job_that_never_answered_are_not_kept(tmp_path: Path) -> None:
    job = Job(tmp_path, "one").fetch().compile(a="1")
    assert job.keep().returncode == 0 and job.kept() == []
    job.heartbeat.write_text('{"state": "failing"}')
    assert job.keep().returncode == 0 and job.kept() == []


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_a_layer_cut_short_gives_whole_files_or_none(tmp_path: Path, share: float) -> None:
    first = Job(tmp_path, "one").fetch().compile(a="a" * 20_000, b="b" * 20_000, c="c" * 20_000).answer()
    first.keep()
    (name,) = first.kept()
    data = (first.layers / name).read_bytes()
    (first.layers / name).write_bytes(data[: int(len(data) * share)])
    second = Job(tmp_path, "two").fetch()
    found = second.kernels()
    assert len(found) < 3 and all(found[key] == key * 20_000 for key in found)


def test_what_is_no_kernel_stays_behind(tmp_path: Path) -> None:
    job = Job(tmp_path, "one").fetch().compile(a="1").answer()
    for name in ("hf/modules/x.py", "vllm/gpu_p2p_access_cache_for_0.json", "vllm/assets/x", "triton/x.lock"):
        path = job.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (job.cache / "triton" / "link").symlink_to("/etc/passwd")
    job.keep()
    with tarfile.open(job.layers / job.kept()[0]) as layer:
        assert layer.getnames() == ["triton/a"]


def test_a_layer_leads_nowhere_else(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("x")
    (tmp_path / "shared").mkdir()
    with tarfile.open(tmp_path / "shared" / "1.tar", "w") as layer:
        for name in ("triton/../../../escaped", "/tmp/escaped", "other/x", "triton/good"):
            layer.add(evil, name)
    assert Job(tmp_path, "one").fetch().kernels() == {"good": "x"}
    assert not (tmp_path / "escaped").exists()


def test_a_disk_that_is_full_leaves_nothing_half(tmp_path: Path) -> None:
    job = Job(tmp_path, "one").fetch().compile(a="1" * 100_000).answer()
    words = "ulimit -f 16; trap '' XFSZ; exec \"$@\""
    done = subprocess.run(["bash", "-c", words, "limited", *job.argv("keep")], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "could not be kept" in done.stderr
    assert job.kept() == []


def test_who_waits_for_an_answer_can_be_told_to_stop(tmp_path: Path) -> None:
    job = Job(tmp_path, "one").fetch().compile(a="1")
    waiting = subprocess.Popen(job.argv("when-ready"))
    time.sleep(0.5)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(60) != 0 and job.kept() == []


def test_abandoned_layers_are_swept(tmp_path: Path) -> None:
    job = Job(tmp_path, "one").fetch().compile(a="1").answer()
    job.layers.mkdir()
    for name, age_s in (("old.tar.7.new", 90_000), ("young.tar.8.new", 60)):
        (job.layers / name).write_text("half")
        os.utime(job.layers / name, (time.time() - age_s,) * 2)
    job.keep()
    assert "young.tar.8.new" in job.kept() and "old.tar.7.new" not in job.kept()


def test_each_image_model_and_size_has_its_own(tmp_path: Path) -> None:
    folder_of = load("kernel_cache").folder_of
    spec = {"root": "/r", "model": "Org/Name", "nodes": 1, "gpus": 2}
    assert folder_of(spec, "ab" * 32) == "/r/cache/abababababababab/Org--Name-1x2"
    others = [folder_of({**spec, **other}, digest) for other, digest in (({"gpus": 8}, "ab" * 32), ({}, "cd" * 32))]
    assert len({folder_of(spec, "ab" * 32), *others}) == 3
    assert "/../" not in folder_of({**spec, "model": "../.."}, "ab" * 32)


def test_a_job_keeps_its_kernels_when_it_ends(node: ComputeNode) -> None:
    node.environment["FAKE_APPTAINER_KERNEL"] = "triton/k"
    for _ in range(2):
        node.start()
        node.connection()
        node.wait_for(lambda: (node.root / "logs" / "heartbeat-77.json").exists())
        node.wait_for(lambda: json.loads((node.root / "logs" / "heartbeat-77.json").read_text())["state"] == "ok")
        node.signal(signal.SIGTERM)
        assert node.wait() == 0 and node.left_behind() == []
        (node.root / "record.json").rename(node.root / "record-before.json")
    (layer,) = (node.root / "cache").glob("*/Org--Name-1x1/*.tar")
    with tarfile.open(layer) as kept:
        assert kept.getnames() == ["triton/k"]
    assert "found triton/k" in node.log()
