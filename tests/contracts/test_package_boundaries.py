"""Boundaries between packages: task names, and who may import which library."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from types import FunctionType

import pytest
from bouchet_core.tasks import TaskName

ROOT = Path(__file__).parents[2]


def test_task_functions_of_worker_are_exactly_task_names() -> None:
    tasks = importlib.import_module("bouchet_worker.tasks")
    defined = {name for name, value in vars(tasks).items() if isinstance(value, FunctionType)}
    own = {name for name in defined if getattr(tasks, name).__module__ == tasks.__name__ and not name.startswith("_")}
    assert own - {"set_context", "current_context"} == set(TaskName)


# library -> the folders or files that may import it
OWNERS = {
    "asyncssh": ("services/gateway/bouchet_gateway/ssh/",),
    "redis": ("core/bouchet_core/store/",),
    "litellm": ("services/proxy/bouchet_proxy/backends/litellm",),
}


@pytest.mark.parametrize("library", OWNERS)
def test_library_is_imported_by_its_owners_only(library: str) -> None:
    sources = [path for folder in ("core", "services", "cli") for path in (ROOT / folder).rglob("*.py")]
    users = [str(path.relative_to(ROOT)) for path in sources if library in _imports(path)]
    assert users, f"no file imports {library}"
    assert [user for user in users if not user.startswith(OWNERS[library])] == []


@cache
def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}
