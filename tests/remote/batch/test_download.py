"""A download on a node: the batch script, the oldest Python, the real huggingface_hub, and a small hub server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub_server import TOKEN, Hub, HubBehavior, HubModel, make_model, running_hub
from tests.remote.compute_node import FAKES, OLDEST, SCRIPTS, write_image, write_program
from tests.waiting import wait_for

WAIT_S = 60.0
MODEL = "Org/Name"
SIZE = 6_000_000


@dataclass
class DownloadSite:
    """A node with a models folder, a hub, and the spec of a download job; `run` runs one job."""

    root: Path
    hub: Hub
    spec: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        return self.root / "jobs" / "bouchet-download-Org--Name-1"

    @property
    def complete(self) -> Path:
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
        argv = ["bash", str(SCRIPTS / "batch.sbatch"), "download.py", str(self.job_dir), str(SCRIPTS)]
        return subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, **changes: object) -> tuple[int, dict[str, Any], str]:
        """Run one job to its end; its exit status, progress and log."""
        process = self.start(**changes)
        log, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, self.progress(), log

    def progress(self) -> dict[str, Any]:
        return dict(json.loads((self.job_dir / "progress.json").read_text()))

    def parts(self) -> int:
        return sum(path.stat().st_size for path in self.partial.rglob("*.part"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DownloadSite]:
    root = tmp_path / "it's a $root"
    for folder in ("bin", "home", "tmp", "models", "images", "cache", "jobs/bouchet-download-Org--Name-1"):
        (root / folder).mkdir(parents=True)
    write_program(root / "bin" / "python3", f'exec "{OLDEST}" "$@"')
    write_program(root / "bin" / "apptainer", f'exec "{sys.executable}" "{FAKES / "bare_apptainer.py"}" "$@"')
    image = write_image(root / "images" / "pin.sif")
    with running_hub(Hub({MODEL: make_model(SIZE)})) as hub:
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
            "quota_command": [],
        }
        yield DownloadSite(root, hub, spec)


def test_download_writes_model_revision_and_manifest(site: DownloadSite) -> None:
    status, progress, log = site.run()
    assert (status, progress["state"]) == (0, "done"), log
    model = site.hub.models[MODEL]
    names = {p.name for p in site.complete.iterdir()}
    assert names == {
        ".bouchet",
        "REVISION",
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }, "the same weights in another format are left out"
    for path in names - {".bouchet", "REVISION"}:
        assert (site.complete / path).read_bytes() == model.files[path]
    assert (site.complete / "REVISION").read_text() == f"{model.commit}\n"
    manifest = json.loads((site.complete / ".bouchet" / "manifest.json").read_text())
    assert manifest["revision"] == model.commit and manifest["bytes"] == progress["total_bytes"]
    assert {e["path"]: e["hash"] for e in manifest["files"]} == {e: model.etag(e) for e in names & set(model.files)}
    assert progress["bytes"] == progress["total_bytes"] and progress["files"] == progress["total_files"] == 4
    assert not site.partial.exists() and not list((site.root / "tmp").iterdir())


@pytest.mark.slow
def test_second_run_requests_no_file(site: DownloadSite) -> None:
    site.run()
    site.hub.requests.clear()
    status, progress, _ = site.run()
    assert status == 0 and "already" in progress["sentence"]
    assert [path for method, path, _ in site.hub.requests if method == "GET" and "resolve" in path] == []


def test_killed_download_resumes_at_last_byte(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(rate=1_500_000)
    process = site.start()
    wait_for(lambda: site.parts() > 2_000_000)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = site.parts()
    site.hub.behavior, before = HubBehavior(), len(site.hub.ranges())
    status, progress, log = site.run()
    assert (status, progress["state"]) == (0, "done"), log
    begun = [int(r.removeprefix("bytes=").rstrip("-")) for r in site.hub.ranges()[before:]]
    assert sum(begun) >= kept > 0
    assert site.complete.joinpath("model-00001-of-00002.safetensors").read_bytes().startswith(b"1")


@pytest.mark.slow
def test_download_keeps_all_steps_however_short(site: DownloadSite) -> None:
    _, progress, log = site.run()
    names = ["checking the image", "querying the hub", "checking existing files", "downloading", "finishing"]
    assert [step["name"] for step in progress["steps"]] == names, log


@pytest.mark.slow
def test_term_stops_download_and_keeps_parts(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(rate=1_000_000)
    process = site.start()
    wait_for(lambda: site.parts() > 1_000_000)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_S)
    assert site.progress()["state"] == "stopped" and site.parts() > 1_000_000


@pytest.mark.slow
def test_stop_file_ends_detached_download(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(rate=1_000_000)
    log = site.root / "log"
    (site.job_dir / "spec.json").write_text(json.dumps(site.spec))
    argv = [OLDEST, str(SCRIPTS / "download.py"), "detach", str(site.job_dir), str(SCRIPTS), str(log)]
    environment = {"PATH": f"{site.root}/bin:/usr/bin:/bin", "HOME": "/x", "TMPDIR": str(site.root / "tmp")}

    def detach() -> str:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert detach() == "started"
    wait_for(lambda: site.parts() > 500_000)
    assert detach() == "already running"
    (site.job_dir / "stop").touch()
    wait_for(lambda: site.progress()["state"] == "stopped")


@pytest.mark.slow
def test_repeatedly_cut_connection_is_resumed(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(cut_after=1_100_000, cuts=3)
    status, progress, log = site.run()
    assert (status, progress["state"]) == (0, "done"), log
    assert len(site.hub.ranges()) >= 2


@pytest.mark.slow
def test_hub_failure_is_reported_and_next_run_succeeds(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(failing=10_000)
    status, progress, _ = site.run()
    assert status == 1 and progress["kind"] == "network" and f"bouchet download {MODEL}" in progress["sentence"]
    site.hub.behavior = HubBehavior()
    assert site.run()[0] == 0


def test_hub_that_counts_too_many_requests_is_waited_for(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(limited=2)
    began = time.monotonic()
    status, _, log = site.run()
    assert status == 0 and time.monotonic() - began >= 1
    assert "asks to wait 1 s" in log and "HF_TOKEN" in log


def test_refused_connection_is_reported_as_network_error(site: DownloadSite) -> None:
    status, progress, _ = site.run(endpoint="http://localhost:9")
    assert (status, progress["kind"]) == (1, "network") and "localhost:9" in progress["sentence"]


def test_gated_model_without_token_is_refused_before_download(site: DownloadSite) -> None:
    site.hub.models[MODEL].gated = True
    status, progress, log = site.run()
    assert (status, progress["kind"]) == (1, "gated") and "HF_TOKEN" in progress["sentence"], log
    assert not site.partial.exists()


def test_token_of_user_is_sent_to_hub_only(site: DownloadSite) -> None:
    site.hub.models[MODEL].gated = True
    own = site.root / "home" / ".cache" / "huggingface" / "token"
    own.parent.mkdir(parents=True)
    own.write_text(f"{TOKEN}\n")
    status, progress, log = site.run()
    # the hub's other host refuses requests with a token
    assert (status, progress["state"]) == (0, "done"), log
    assert TOKEN not in log and own.exists()


@pytest.mark.slow
def test_token_of_job_is_preferred_and_removed(site: DownloadSite) -> None:
    site.hub.models[MODEL].gated = True
    sent = site.job_dir / "token"
    sent.write_text("hf-of-another-user\n")
    assert "your token has no access" in site.run()[1]["sentence"]
    assert not sent.exists()
    sent.write_text(f"{TOKEN}\n")
    assert site.run()[0] == 0 and not sent.exists()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"model": "Org/Nmae"}, "unknown_model"), ({"revision": "v9"}, "unknown_revision")],
)
def test_unknown_model_or_revision_is_reported(site: DownloadSite, changes: dict[str, str], kind: str) -> None:
    status, progress, _ = site.run(**changes)
    assert (status, progress["kind"]) == (1, kind)
    assert next(iter(changes.values())) in progress["sentence"]


def test_quota_too_small_is_refused_before_download(site: DownloadSite) -> None:
    status, progress, _ = site.run(quota_command=["printf", "your quota:\\n4000000\\n"])
    assert (status, progress["kind"]) == (1, "no_space")
    assert "5.8 MiB more" in progress["sentence"] and "your quota has 3.8 MiB left" in progress["sentence"]
    assert not [path for _, path, _ in site.hub.requests if path.startswith("/lfs")]


@pytest.mark.slow
def test_quota_table_of_models_dir_is_judged(site: DownloadSite) -> None:
    table = "Fileset Type Usage (GiB) Quota (GiB)\\nlab:models GRP 1,024 1,024\\nhome USR 1 125\\n"
    status, progress, _ = site.run(quota_command=["printf", table])
    assert (status, progress["kind"]) == (1, "no_space") and "has 0 bytes left" in progress["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["printf", "9000000000\\n"], ["no-such-program"]])
def test_quota_large_or_unknown_does_not_block(site: DownloadSite, command: list[str]) -> None:
    assert site.run(quota_command=command)[0] == 0


@pytest.mark.slow
def test_full_disk_keeps_parts(site: DownloadSite) -> None:
    model, notes = site.hub.models[MODEL], site.partial / ".bouchet"
    one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    notes.mkdir(parents=True)
    (notes / f"{model.etag(one)}.part").write_bytes(model.files[one][:2_000_000])
    part = notes / f"{model.etag(two)}.part"
    part.symlink_to("/dev/full")
    status, progress, log = site.run()
    assert (status, progress["kind"]) == (1, "no_space"), log
    assert "the disk is full" in progress["sentence"] and "kept" in progress["sentence"]
    part.unlink()
    assert site.run()[0] == 0


@pytest.mark.slow
def test_wrong_hash_leaves_no_model(site: DownloadSite) -> None:
    site.hub.behavior = HubBehavior(corrupt=True)
    status, progress, _ = site.run()
    assert (status, progress["kind"]) == (1, "wrong_hash") and not site.complete.exists()
    site.hub.behavior = HubBehavior()
    assert site.run()[0] == 0


@pytest.mark.slow
def test_other_revision_reuses_equal_files_and_keeps_old_model(site: DownloadSite) -> None:
    site.run()
    old = site.hub.models[MODEL]
    site.hub.models[MODEL] = HubModel({**old.files, "config.json": b'{"new": 1}'}, old.lfs)
    site.hub.requests.clear()
    assert site.run()[0] == 0
    assert (site.complete / "config.json").read_bytes() == b'{"new": 1}'
    assert not [path for _, path, _ in site.hub.requests if path.startswith("/lfs")]
    (kept,) = (site.root / "models" / "Org").glob(f".Name.{old.commit[:8]}.*")
    assert (kept / "config.json").read_bytes() == old.files["config.json"]


@pytest.mark.slow
def test_model_copied_by_hand_is_verified_and_reused(site: DownloadSite) -> None:
    site.complete.mkdir(parents=True)
    for path, content in site.hub.models[MODEL].files.items():
        (site.complete / path).write_bytes(content)
    assert site.run()[0] == 0
    assert not [path for _, path, _ in site.hub.requests if path.startswith("/lfs")]
    assert (site.complete / "REVISION").exists()


def test_unsafe_file_name_is_refused(site: DownloadSite) -> None:
    model = site.hub.models[MODEL]
    site.hub.models[MODEL] = HubModel({**model.files, "../../out": b"x"}, model.lfs)
    status, progress, _ = site.run()
    assert (status, progress["kind"]) == (1, "unsafe") and not site.partial.exists()


@pytest.mark.parametrize(
    "path", ["config.json", pytest.param("model-00001-of-00002.safetensors", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "listed", ["../../../victim", *(pytest.param(one, marks=pytest.mark.slow) for one in ("a" * 39 + "\n", ""))]
)
def test_hash_of_hub_that_is_none_is_refused(site: DownloadSite, path: str, listed: str) -> None:
    victim = site.root / "models" / "victim.part"
    victim.write_bytes(b"own")
    site.hub.models[MODEL].etags[path] = listed
    status, progress, log = site.run()
    assert (status, progress["kind"]) == (1, "unsafe"), log
    assert victim.read_bytes() == b"own" and not site.partial.exists()


@pytest.mark.slow
def test_commit_of_hub_that_is_no_hash_is_refused(site: DownloadSite) -> None:
    site.run()
    vars(site.hub.models[MODEL])["commit"] = "../other"
    status, progress, log = site.run()
    assert (status, progress["kind"]) == (1, "unsafe"), log
    assert (site.complete / "config.json").exists()


def test_changed_image_is_refused(site: DownloadSite) -> None:
    (site.root / "images" / "pin.sif").write_bytes(b"another")
    status, progress, _ = site.run()
    assert status == 1 and progress["state"] == "failed" and "not the pinned one" in progress["sentence"]
