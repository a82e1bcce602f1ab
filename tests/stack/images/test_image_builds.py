"""`bouchet image` on the demo cluster: built by a Slurm job, signed, the same twice, whole or not there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.harness import NUMBER, ROOT, Stack
from tests.stack.images.image_tree import tree_of
from tests.stack.images.tiny_pin import FAILS, make_pin
from tests.waiting import wait_for

IMAGES = "/software/images"
# of this stack alone: all stacks share the folder of the images
TINY, BROKEN = f"tiny-{NUMBER}", f"broken-{NUMBER}"
BUILD_TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def pins(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield a stack with two more pins, on a site that signs: pin to staged folder."""
    own = tmp_path_factory.mktemp("images")
    shutil.copytree(ROOT / "apptainer/pins", own / "pins")
    shutil.copytree(ROOT / "sites", own / "sites")
    staged = {TINY: make_pin(own / "pins", stack, TINY), BROKEN: make_pin(own / "pins", stack, BROKEN, FAILS)}
    site = own / "sites/demo.yaml"
    site.write_text(site.read_text() + f"signing_key: {_key(stack)}\n")
    for path in (own, *own.parents):
        if path.is_relative_to(tmp_path_factory.getbasetemp().parent):
            path.chmod(0o755)
    done = stack.make("up", BOUCHET_PINS_DIR=str(own / "pins"), BOUCHET_SITE_DIR=str(own / "sites"))
    assert done.status == 0, done.output
    try:
        yield staged
    finally:
        for pin in staged:
            stack.bouchet("image", "remove", pin, "--yes", "--force")
            stack.slurm("rm", "-f", f"{IMAGES}/.{pin}.lock")
        assert stack.make("up").status == 0


def _key(stack: Stack) -> str:
    """Return the fingerprint of a PGP key without a passphrase in the user's keyring."""
    words = ("--name", "demo", "--email", "demo@example.org", "--comment", "test", "--password", "", "--push=false")
    stack.slurm("apptainer", "key", "newpair", *words)
    found = re.findall(r"\b[0-9A-F]{40}\b", stack.slurm("apptainer", "key", "list", "--secret"))
    assert found
    return str(found[-1])


def files_of(stack: Stack, pin: str) -> list[str]:
    """List the files of a pin in the images folder, hidden ones too."""
    return [name for name in stack.slurm("ls", "-A", IMAGES).split() if pin in name]


def listed(stack: Stack, pin: str) -> dict[str, Any]:
    """Return the pin's row of `bouchet image list --json`."""
    done = stack.bouchet("image", "list", "--json")
    assert done.status == 0, done.output
    return next(row for row in json.loads(done.stdout)["images"] if row["pin"] == pin)


def test_image_build_shows_steps_and_is_complete(stack: Stack, pins: dict[str, str]) -> None:
    done = stack.bouchet("image", "build", TINY, "--from", pins[TINY], timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 0, done.output
    assert "built in" in done.stdout
    steps = ("unpacking the base image", "installing system packages", "installing Python packages", "compiling Python",
             "testing the image", "packing the image", "signing the image", "hashing the image")  # fmt: skip
    places = [done.stderr.rfind(step) for step in steps]
    assert -1 not in places and places == sorted(places), done.stderr
    assert sorted(files_of(stack, TINY)) == sorted(
        [f".{TINY}.lock", f"{TINY}.manifest.json", f"{TINY}.sif", f"{TINY}.sif.sha256"]
    )
    row = listed(stack, TINY)
    digest = stack.slurm("sha256sum", f"{IMAGES}/{TINY}.sif").split()[0]
    assert (row["state"], row["vllm"], row["sha256"], row["in_site"]) == ("ready", "0.32.0", digest, False)
    labels = json.loads(stack.slurm("apptainer", "inspect", "--json", "--labels", f"{IMAGES}/{TINY}.sif"))
    found = labels["data"]["attributes"]["labels"]
    assert found["bouchet.vllm"] == "0.32.0" and re.fullmatch(r"[0-9a-f]{64}", found["bouchet.lock_sha256"])
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", found["bouchet.commit"])


def test_image_build_unchanged_does_nothing(stack: Stack, pins: dict[str, str]) -> None:
    done = stack.bouchet("image", "build", TINY, "--from", pins[TINY], "--json", timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 0, done.output
    assert json.loads(done.stdout)["current"] is True


def test_image_rebuild_has_same_files_and_signature(stack: Stack, pins: dict[str, str]) -> None:
    before = tree_of(stack, f"{IMAGES}/{TINY}.sif")
    assert "__pycache__" in before
    done = stack.bouchet("image", "build", TINY, "--from", pins[TINY], "--rebuild", timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 0, done.output
    assert tree_of(stack, f"{IMAGES}/{TINY}.sif") == before
    verified = stack.bouchet("image", "verify", TINY, timeout_s=BUILD_TIMEOUT_S)
    assert verified.status == 0, verified.output
    assert "signed with the site's key" in verified.stdout


def test_image_verify_detects_change(stack: Stack, pins: dict[str, str]) -> None:
    stack.slurm("bash", "-c", f"printf x >> {IMAGES}/{TINY}.sif")
    done = stack.bouchet("image", "verify", TINY, timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 1
    assert "has changed" in done.stderr and "build it again" in done.stderr


def test_image_failing_test_is_not_kept(stack: Stack, pins: dict[str, str]) -> None:
    done = stack.bouchet("image", "build", BROKEN, "--from", pins[BROKEN], timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 1
    assert "does not work, so it was deleted" in done.stderr and "libcudart.so.13" in done.stderr
    assert files_of(stack, BROKEN) == [f".{BROKEN}.lock"]


def test_image_cancelled_build_leaves_nothing(stack: Stack, pins: dict[str, str]) -> None:
    asked = stack.bouchet("image", "build", BROKEN, "--from", pins[BROKEN], "--no-wait", "--json")
    job = json.loads(asked.stdout)["id"]

    def record() -> dict[str, Any]:
        with stack.api() as api:
            return dict(api.get(f"/v1/images/jobs/{job}").raise_for_status().json())

    wait_for(lambda: record()["state"] == "running" and record()["stage"], 60, lambda: json.dumps(record()))
    assert stack.bouchet("image", "build", BROKEN, "--cancel").status == 0
    ended = wait_for(lambda: record()["state"] == "cancelled" and record(), 60, lambda: json.dumps(record()))
    assert "partial files were removed" in ended["reason"]
    wait_for(lambda: files_of(stack, BROKEN) == [f".{BROKEN}.lock"], 20, lambda: str(files_of(stack, BROKEN)))


def test_image_build_from_empty_folder_is_refused(stack: Stack, pins: dict[str, str]) -> None:
    done = stack.bouchet("image", "build", TINY, "--rebuild", "--from", "~/nothing-here", timeout_s=BUILD_TIMEOUT_S)
    assert done.status == 1
    assert "nothing-here: base.tar, wheels" in done.stderr


def test_image_remove_asks_first(stack: Stack, pins: dict[str, str]) -> None:
    assert stack.bouchet("image", "remove", TINY).status == 2
    assert f"{TINY}.sif" in files_of(stack, TINY)
    done = stack.bouchet("image", "remove", TINY, "--yes")
    assert done.status == 0, done.output
    assert files_of(stack, TINY) == []
    assert listed(stack, TINY)["state"] == "missing"
