"""Documents and locks: links work, decisions are listed, locks have hashes and no index address."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"https?://|--index-url|--extra-index-url|--find-links|file:")


def our_files() -> list[Path]:
    """Return every file of the checkout that git does not ignore."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in sorted(names.split("\0")) if name and (path := ROOT / name).is_file()]


DOCUMENTS = [path for path in our_files() if path.suffix == ".md"]
LOCKS = [path for path in our_files() if path.name == "requirements.lock"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_have_a_target(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text())
    assert [t for t in targets if not (document.parent / t).exists()] == []


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    decisions = {p.name for p in (ROOT / "docs/adr").glob("[0-9]*.md")}
    assert decisions == set(re.findall(r"\((\d{4}-[^)]+\.md)\)", index))


def test_locks_are_found() -> None:
    assert len(LOCKS) >= 7


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_lock_has_hashes_and_no_index_address(lock: Path) -> None:
    text = lock.read_text()
    assert not ADDRESS.search(text)
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
    assert [e.splitlines()[0] for e in entries if "==" not in e or "--hash=sha256:" not in e] == []


def test_files_named_in_architecture_exist() -> None:
    named = re.findall(r"`([a-z_]+(?:/[A-Za-z0-9_.-]+)+)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert named
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_every_folder_and_package_is_named_in_architecture() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*)/", (ROOT / "ARCHITECTURE.md").read_text()))
    paths = [path.relative_to(ROOT).parent.parts for path in our_files()]
    folders = {parts[0] for parts in paths if parts and not parts[0].startswith(".")} - {"docs", "services"}
    packages = {parts[3] for parts in paths if len(parts) > 3 and parts[0] == "services"}
    assert folders <= {name.split("/")[0] for name in named}, folders
    assert packages <= {name.split("/")[-1] for name in named}, packages - named


def test_no_secret_or_cache_is_tracked() -> None:
    bad = [p for p in our_files() if p.name == ".env" or ".secrets" in p.parts or "node_modules" in p.parts]
    assert bad == []
