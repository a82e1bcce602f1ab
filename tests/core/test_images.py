"""Reading pins: the shipped ones, and mistakes by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.errors import ConfigurationError, UnknownPinError
from bouchet_core.images import find_pin, load_pin, load_pins

from demo.staging import DemoLayout

ROOT = Path(__file__).parents[2]
PINS = ROOT / "apptainer" / "pins"
DIGEST = "sha256:" + "a" * 64


def make_pin(folder: Path, lock: bool = True, **facts: str) -> Path:
    pin = folder / "some-1.0"
    pin.mkdir()
    words = {"name": "some-1.0", "vllm": '"1.0"', "torch": '"2.0"', "cuda": "null", **facts}
    (pin / "pin.yaml").write_text("# a comment: none\n" + "".join(f"{name}: {word}\n" for name, word in words.items()))
    if lock:
        (pin / "requirements.lock").write_text("vllm==1.0 --hash=sha256:0\n")
    return pin


def test_load_pins_reads_every_shipped_pin() -> None:
    pins = load_pins(PINS)
    assert {"cpu-0.32.0", "cuda13-0.32.0"} <= set(pins)
    assert pins["cuda13-0.32.0"].min_driver == "580" and pins["cpu-0.32.0"].cuda is None


def test_recipe_sha256_is_of_what_the_image_depends_on(tmp_path: Path) -> None:
    folder = make_pin(tmp_path)
    before = load_pin(folder).recipe_sha256(b"")
    text = (folder / "pin.yaml").read_text()
    (folder / "pin.yaml").write_text(f"{text}# measured\n\nbuild_gib: 18\nimage_gib: 6\n")
    assert load_pin(folder).recipe_sha256(b"") == before
    (folder / "pin.yaml").write_text(f"{text}min_driver: 580\n")
    assert load_pin(folder).recipe_sha256(b"") != before


def test_recipe_sha256_equals_the_demos() -> None:
    definition = (ROOT / "apptainer" / "vllm.def").read_bytes()
    assert load_pins(PINS)["cpu-0.32.0"].recipe_sha256(definition) == DemoLayout(ROOT, ROOT).image_recipe()


def test_load_pin_of_an_oci_image_needs_no_lock(tmp_path: Path) -> None:
    pin = load_pin(make_pin(tmp_path, lock=False, oci=f"vllm/vllm-openai@{DIGEST}"))
    assert pin.oci == f"vllm/vllm-openai@{DIGEST}" and set(pin.files) == {"pin.yaml"}


@pytest.mark.parametrize(
    ("lock", "facts", "words"),
    [
        (False, {"oci": "vllm/vllm-openai:v0.32.0"}, "use a digest"),
        (False, {"oci": "vllm/vllm-openai"}, "use a digest"),
        (False, {"oci": "vllm/vllm-openai@sha256:abc"}, "use a digest"),
        (True, {"oci": f"vllm/vllm-openai@{DIGEST}"}, "either"),
        (False, {}, "either"),
        (True, {"name": "other"}, "its folder is"),
        (True, {"name": "../x"}, "name"),
        (True, {"build_gib": "plenty"}, "build_gib"),
        (True, {"platform": "linux/arm64"}, "the part `arm64`"),
        (True, {"platform": "linux/riscv64"}, "platform"),
    ],
)
def test_load_pin_mistake_raises(tmp_path: Path, lock: bool, facts: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_pin(make_pin(tmp_path, lock, **facts))


@pytest.mark.parametrize("name", ["cpu", "../pins/cpu-0.32.0", "", "cpu-0.32.0/"])
def test_find_pin_unknown_names_the_known_pins(name: str) -> None:
    with pytest.raises(UnknownPinError, match=r"known: cpu-0\.32\.0"):
        find_pin(PINS, name)


def test_pins_of_arm64_have_it_in_their_names() -> None:
    arches = {name: pin.arch for name, pin in load_pins(PINS).items()}
    assert arches["cpu-arm64-0.32.0"] == "aarch64"
    assert {arch for name, arch in arches.items() if "arm64" not in name} == {"x86_64"}
