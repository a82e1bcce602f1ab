"""Lock files: hashed, without addresses, and in line with what the packages require."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from setup.python.locks import LOCKS, Lock, compile_argv, read_requirements, requirements

ROOT = Path(__file__).parents[3]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.output)
def test_locks_satisfy_requirements_with_hashes_and_no_address(lock: Lock) -> None:
    text = (ROOT / lock.output).read_text()
    assert "://" not in text
    pins = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==[^\s;]+", text, re.M)
    locked = {normal(name) for name in pins}
    asked = {normal(re.split(r"[\s<>=!~;\[]", line)[0]) for line in requirements(ROOT, lock)}
    assert asked <= locked, f"`make renew` is due: {asked - locked}"
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    unhashed = [block.splitlines()[0] for block in blocks if re.match(r"[A-Za-z0-9]", block) and "--hash=" not in block]
    assert not unhashed


def test_requirements_leave_out_our_packages(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "pyproject.toml").write_text('[project]\nname = "bouchet-core"\ndependencies = ["redis>=8"]\n')
    package = '[project]\nname = "r"\ndependencies = ["bouchet-core==0.1.0", "litellm[proxy]==1", "rq>=3"]\n'
    (tmp_path / "package.toml").write_text(package)
    assert requirements(tmp_path, Lock("x", "3.11", ("package.toml",))) == ["litellm[proxy]==1", "redis>=8", "rq>=3"]
    assert requirements(tmp_path, Lock("x", "3.11", ("package.toml",), without_heavy=True)) == ["redis>=8", "rq>=3"]


def test_read_requirements_skips_comments(tmp_path: Path) -> None:
    (tmp_path / "x.in").write_text("# why\na>=1\n\nb\n")
    assert list(read_requirements(tmp_path / "x.in")) == ["a>=1", "b"]


def test_compile_argv_emits_no_address() -> None:
    argv = compile_argv("uv", LOCKS[0])
    assert "--no-emit-index-url" in argv and "--generate-hashes" in argv
