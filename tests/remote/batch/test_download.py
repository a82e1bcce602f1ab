"""A download on a node: the batch script, the oldest Python, the real huggingface_hub, and a hub of our own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub_server import TOKEN, Hub, Manners, Model, made_up, running_hub
from tests.remote.compute_node import OLDEST, REPOSITORY, SCRIPTS, write_program

WAIT_S = 60.0
MODEL = "Org/Name"
SIZE = 6_000_000


@dataclass
class Place:
    """A node with a models folder, and what a job there is told. `run` is one job."""

    root: Path
    hub: Hub
    spec: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        return self.root / "jobs" / "bouchet-download-Org--Name-1"

    @property
    def whole(self) -> Path:
        return self.root / "models" / MODEL

    @property
    def partial(self) -> Path:
        return self.root / "models" / "Org" / ".Name.partial"

    def start(self, **changes: object) -> subprocess.Popen[str]:
        (self.job_dir / "spec.json").write_text(json.dumps({**self.spec, **changes}))
        environment = {
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "SLURM_JOB_ID": "77",
            "BOUCHET_DOWNLOAD_PAUSE_S": "0.05",
            **self.environment,
        }
        words = ["bash", str(SCRIPTS / "batch.sbatch"), "download.py", str(self.job_dir), str(SCRIPTS)]
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, **changes: object) -> tuple[int, dict[str, Any], str]:
        """Exit status, progress and log of one job that is left alone."""
        process = self.start(**changes)
        log, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, self.progress(), log

    def progress(self) -> dict[str, Any]:
        return dict(json.loads((self.job_dir / "progress.json").read_text()))

    def parts(self) -> int:
        return sum(path.stat().st_size for path in self.partial.rglob("*.part"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "it's a $root"
    for folder in ("bin", "home", "tmp", "models", "images", "cache", "jobs/bouchet-download-Org--Name-1"):
        (root / folder).mkdir(parents=True)
    write_program(root / "bin" / "python3", f'exec "{OLDEST}" "$@"')
    fake = REPOSITORY / "tests" / "fakes" / "bare_apptainer.py"
    write_program(root / "bin" / "apptainer", f'exec "{sys.executable}" "{fake}" "$@"')
    image = root / "images" / "pin.sif"
    image.write_bytes(b"an image")
    Path(f"{image}.sha256").write_text(f"{hashlib.sha256(b'an image').hexdigest()}  pin.sif\n")
    with running_hub(Hub({MODEL: made_up(SIZE)})) as hub:
        spec = {
            "version": 1,
            "job_name": "bouchet-download-Org--Name-1",
            "model": MODEL,
            "revision": "main",
            "endpoint": hub.url,
            "root": str(root),
            "models_dir": str(root / "models"),
            "image": str(image),
            "apptainer": "apptainer",
            "quota_line": "",
        }
        yield Place(root, hub, spec)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_model_lies_where_vllm_reads_it_with_revision_and_manifest(place: Place) -> None:
    status, progress, log = place.run()
    assert (status, progress["state"]) == (0, "done"), log
    model = place.hub.models[MODEL]
    names = {p.name for p in place.whole.iterdir()}
    assert names == {
        ".bouchet",
        "REVISION",
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }, "the same weights in another form are left out"
    for path in names - {".bouchet", "REVISION"}:
        assert (place.whole / path).read_bytes() == model.files[path]
    assert (place.whole / "REVISION").read_text() == f"{model.commit}\n"
    manifest = json.loads((place.whole / ".bouchet" / "manifest.json").read_text())
    assert manifest["revision"] == model.commit and manifest["bytes"] == progress["total_bytes"]
    assert {e["path"]: e["hash"] for e in manifest["files"]} == {e: model.etag(e) for e in names & set(model.files)}
    assert progress["bytes"] == progress["total_bytes"] and progress["files"] == progress["total_files"] == 4
    assert not place.partial.exists() and not list((place.root / "tmp").iterdir())


def test_a_second_run_asks_for_no_file_again(place: Place) -> None:
    place.run()
    place.hub.asked.clear()
    status, progress, _ = place.run()
    assert status == 0 and "already" in progress["sentence"]
    assert [path for method, path, _ in place.hub.asked if method == "GET" and "resolve" in path] == []


def test_a_killed_job_is_taken_up_behind_its_last_byte(place: Place) -> None:
    place.hub.manners = Manners(rate=1_500_000)
    process = place.start()
    until(lambda: place.parts() > 2_000_000)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = place.parts()
    place.hub.manners, before = Manners(), len(place.hub.ranges())
    status, progress, log = place.run()
    assert (status, progress["state"]) == (0, "done"), log
    begun = [int(r.removeprefix("bytes=").rstrip("-")) for r in place.hub.ranges()[before:]]
    assert sum(begun) >= kept > 0
    assert place.whole.joinpath("model-00001-of-00002.safetensors").read_bytes().startswith(b"1")


def test_told_to_stop_it_says_so_and_keeps_what_came(place: Place) -> None:
    place.hub.manners = Manners(rate=1_000_000)
    process = place.start()
    until(lambda: place.parts() > 1_000_000)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_S)
    assert place.progress()["state"] == "stopped" and place.parts() > 1_000_000


def test_a_stop_file_ends_it_where_there_is_no_slurm(place: Place) -> None:
    place.hub.manners = Manners(rate=1_000_000)
    log = place.root / "log"
    (place.job_dir / "spec.json").write_text(json.dumps(place.spec))
    words = [OLDEST, str(SCRIPTS / "download.py"), "detach", str(place.job_dir), str(SCRIPTS), str(log)]
    environment = {"PATH": f"{place.root}/bin:/usr/bin:/bin", "HOME": "/x", "TMPDIR": str(place.root / "tmp")}

    def detach() -> str:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert detach() == "started"
    until(lambda: place.parts() > 500_000)
    assert detach() == "it runs already"
    (place.job_dir / "stop").touch()
    until(lambda: place.progress()["state"] == "stopped")


def test_a_connection_cut_again_and_again_is_taken_up(place: Place) -> None:
    place.hub.manners = Manners(cut_after=1_100_000, cuts=3)
    status, progress, log = place.run()
    assert (status, progress["state"]) == (0, "done"), log
    assert len(place.hub.ranges()) >= 2


def test_a_hub_that_goes_away_is_a_sentence_and_the_next_run_goes_on(place: Place) -> None:
    place.hub.manners = Manners(failing=10_000)
    status, progress, _ = place.run()
    assert status == 1 and progress["kind"] == "network" and f"bouchet download {MODEL}" in progress["sentence"]
    place.hub.manners = Manners()
    assert place.run()[0] == 0


def test_nobody_at_the_address_is_a_sentence(place: Place) -> None:
    status, progress, _ = place.run(endpoint="http://localhost:9")
    assert (status, progress["kind"]) == (1, "network") and "localhost:9" in progress["sentence"]


def test_a_gated_model_asks_for_a_token_before_anything_is_written(place: Place) -> None:
    place.hub.models[MODEL].gated = True
    status, progress, log = place.run()
    assert (status, progress["kind"]) == (1, "gated") and "HF_TOKEN" in progress["sentence"], log
    assert not place.partial.exists()


def test_the_token_of_the_users_own_file_opens_it_and_goes_to_the_hub_alone(place: Place) -> None:
    place.hub.models[MODEL].gated = True
    own = place.root / "home" / ".cache" / "huggingface" / "token"
    own.parent.mkdir(parents=True)
    own.write_text(f"{TOKEN}\n")
    status, progress, log = place.run()
    # the hub's other host refuses whoever sends it the token
    assert (status, progress["state"]) == (0, "done"), log
    assert TOKEN not in log and own.exists()


def test_a_token_sent_along_counts_first_and_is_taken_away(place: Place) -> None:
    place.hub.models[MODEL].gated = True
    sent = place.job_dir / "token"
    sent.write_text("hf-of-somebody\n")
    assert "does not open it" in place.run()[1]["sentence"]
    assert not sent.exists()
    sent.write_text(f"{TOKEN}\n")
    assert place.run()[0] == 0 and not sent.exists()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"model": "Org/Nmae"}, "unknown_model"), ({"revision": "v9"}, "unknown_revision")],
)
def test_what_the_hub_does_not_have(place: Place, changes: dict[str, str], kind: str) -> None:
    status, progress, _ = place.run(**changes)
    assert (status, progress["kind"]) == (1, kind)
    assert next(iter(changes.values())) in progress["sentence"]


def test_too_small_a_quota_is_said_before_anything_is_fetched(place: Place) -> None:
    status, progress, _ = place.run(quota_line="echo 'your quota:'; echo 4000000")
    assert (status, progress["kind"]) == (1, "no_space")
    assert "5.8 MiB more" in progress["sentence"] and "3.8 MiB left" in progress["sentence"]
    assert not [path for _, path, _ in place.hub.asked if path.startswith("/lfs")]
    assert place.run(quota_line="echo 9000000000; false")[0] == 0


def test_a_disk_that_fills_up_midway_keeps_the_rest(place: Place) -> None:
    model, notes = place.hub.models[MODEL], place.partial / ".bouchet"
    one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    notes.mkdir(parents=True)
    (notes / f"{model.etag(one)}.part").write_bytes(model.files[one][:2_000_000])
    part = notes / f"{model.etag(two)}.part"
    part.symlink_to("/dev/full")
    status, progress, log = place.run()
    assert (status, progress["kind"]) == (1, "no_space"), log
    assert "the disk is full" in progress["sentence"] and "kept" in progress["sentence"]
    part.unlink()
    assert place.run()[0] == 0


def test_a_wrong_hash_is_never_given_the_models_name(place: Place) -> None:
    place.hub.manners = Manners(spoil=True)
    status, progress, _ = place.run()
    assert (status, progress["kind"]) == (1, "wrong_hash") and not place.whole.exists()
    place.hub.manners = Manners()
    assert place.run()[0] == 0


def test_another_revision_takes_over_what_is_the_same_and_keeps_the_old_one(place: Place) -> None:
    place.run()
    old = place.hub.models[MODEL]
    place.hub.models[MODEL] = Model({**old.files, "config.json": b'{"new": 1}'}, old.lfs)
    place.hub.asked.clear()
    assert place.run()[0] == 0
    assert (place.whole / "config.json").read_bytes() == b'{"new": 1}'
    assert not [path for _, path, _ in place.hub.asked if path.startswith("/lfs")]
    (kept,) = (place.root / "models" / "Org").glob(f".Name.{old.commit[:8]}.*")
    assert (kept / "config.json").read_bytes() == old.files["config.json"]


def test_a_folder_copied_by_hand_is_checked_and_taken_over(place: Place) -> None:
    place.whole.mkdir(parents=True)
    for path, content in place.hub.models[MODEL].files.items():
        (place.whole / path).write_bytes(content)
    assert place.run()[0] == 0
    assert not [path for _, path, _ in place.hub.asked if path.startswith("/lfs")]
    assert (place.whole / "REVISION").exists()


def test_a_name_that_leads_out_of_the_folder_is_refused(place: Place) -> None:
    model = place.hub.models[MODEL]
    place.hub.models[MODEL] = Model({**model.files, "../../out": b"x"}, model.lfs)
    status, progress, _ = place.run()
    assert (status, progress["kind"]) == (1, "unsafe") and not place.partial.exists()


@pytest.mark.parametrize("name", ["/etc/x", ".bouchet/manifest.json", "a/../../x", "a//b", "a\\b", "a\nb", "", "./a"])
def test_such_names_are_not_safe(name: str) -> None:
    words = [OLDEST, "-c", "import sys, model_folder; sys.exit(model_folder.is_safe(sys.argv[1]))", name]
    assert subprocess.run(words, cwd=SCRIPTS).returncode == 0


def test_an_image_that_is_not_the_pinned_one_is_refused(place: Place) -> None:
    (place.root / "images" / "pin.sif").write_bytes(b"another")
    status, progress, _ = place.run()
    assert status == 1 and progress["state"] == "failed" and "not the pinned one" in progress["sentence"]
