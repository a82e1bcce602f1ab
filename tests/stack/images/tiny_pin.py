"""A pin whose vLLM is a few lines, built with the project's own recipe: the lock is hashed, the wheels are staged."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from tests.stack.harness import Stack

STAGED = "/home/researcher/staged"
BASE = "/staging/cpu-0.32.0/base.tar"
WORKS = "__version__ = '{version}'\n"
FAILS = "raise ImportError('libcudart.so.13: cannot open shared object file')\n"


def wheel(name: str, version: str, source: str) -> tuple[str, bytes]:
    """Make a wheel with one module: its file name and content."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return f"{name}-{version}-py3-none-any.whl", packed.getvalue()


def make_pin(folder: Path, stack: Stack, name: str, vllm: str = WORKS) -> str:
    """Make a pin in `folder`, stage its wheels on the cluster, and return the staged folder."""
    wheels = dict(
        [
            wheel("torch", "2.13.0", WORKS.format(version="2.13.0")),
            wheel("vllm", "0.32.0", vllm.format(version="0.32.0")),
        ]
    )
    pin = folder / name
    pin.mkdir(parents=True)
    hashes = {file.split("-")[0]: hashlib.sha256(content).hexdigest() for file, content in wheels.items()}
    lock = (
        f"torch==2.13.0 \\\n    --hash=sha256:{hashes['torch']}\nvllm==0.32.0 \\\n    --hash=sha256:{hashes['vllm']}\n"
    )
    (pin / "requirements.lock").write_text(lock)
    facts = {"name": name, "vllm": "0.32.0", "torch": "2.13.0", "base": "debian:bookworm-slim", "cuda": "null"}
    lines = [f"{key}: {word}\n" for key, word in {**facts, "build_gib": 1, "image_gib": 1}.items()]
    (pin / "pin.yaml").write_text("".join(lines))
    for path in (folder, pin, *pin.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    _stage(stack, name, wheels)
    return f"{STAGED}/{name}"


def _stage(stack: Stack, name: str, wheels: dict[str, bytes]) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file, content in wheels.items():
            entry = tarfile.TarInfo(f"{name}/wheels/{file}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    stack.slurm("mkdir", "-p", f"{STAGED}/{name}/wheels")
    assert stack.container("demo-login").put_archive(STAGED, packed.getvalue())
    stack.slurm("ln", "-sf", BASE, f"{STAGED}/{name}/base.tar")
