"""What rooms promise one another by name, without importing each other."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import FunctionType

import yaml
from bouchet_core import errors
from bouchet_core.tasks import TaskName

ROOT = Path(__file__).parents[2]


def all_errors() -> list[type[errors.BouchetError]]:
    """Every class of the tree."""
    found, todo = [], [errors.BouchetError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+(?=\s|$)", errors.__doc__))
    assert {kind.__name__ for kind in all_errors()} <= drawn


def test_every_error_has_a_kind_of_its_own() -> None:
    kinds = [kind.kind for kind in all_errors()]
    assert len(set(kinds)) == len(kinds)


def test_task_functions_of_worker_are_exactly_task_names() -> None:
    tasks = importlib.import_module("bouchet_worker.tasks")
    defined = {name for name, value in vars(tasks).items() if isinstance(value, FunctionType)}
    own = {name for name in defined if getattr(tasks, name).__module__ == tasks.__name__ and not name.startswith("_")}
    assert own - {"set_context", "current_context"} == set(TaskName)


def test_only_listed_files_import_what_is_kept_in_one_place() -> None:
    kept = {
        "asyncssh": {"connect.py", "session.py", "private_key.py", "host_keys.py", "nodes.py", "packets.py", "gcm.py"},
        "redis": {p.name for p in (ROOT / "core/bouchet_core/store").glob("*.py")},
        "litellm": {"litellm_hook.py", "litellm.py"},
    }
    sources = [p for room in ("core", "services", "cli") for p in (ROOT / room).rglob("*.py")]
    for library, owners in kept.items():
        users = {p.name for p in sources if library in _imports(p)}
        assert users <= owners, f"{library} is imported by {users - owners}"
        assert users, f"nobody imports {library}: is this test still true?"


def test_compose_gives_each_room_only_the_secrets_it_needs() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {name: sorted(service["secrets"]) for name, service in services.items()} == {
        "redis": ["redis_password"],
        "gateway": ["gateway_token", "redis_password"],
        "worker": ["gateway_token", "hf_token", "redis_password", "serving_secret"],
        "api": ["api_key", "gateway_token", "redis_password"],
        "proxy": ["api_key", "redis_password", "serving_secret"],
    }


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}
