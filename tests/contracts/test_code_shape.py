"""Limits on the shape of the source tree: sizes of files, functions and folders, docstrings, class names."""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "core": "core/bouchet_core",
    "gateway": "services/gateway/bouchet_gateway",
    "worker": "services/worker/bouchet_worker",
    "api": "services/api/bouchet_api",
    "proxy": "services/proxy/bouchet_proxy",
    "notifier": "services/notifier/bouchet_notifier",
    "cli": "cli/bouchet_cli",
    "remote": "remote",
    "apptainer": "apptainer",
    "setup": "setup",
    "demo": "demo",
}
SMALL_FILE = 60
# Class names that two packages share on purpose.
SHARED_CLASS_NAMES: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Base forms that begin the docstrings of functions here; extend it when a new verb is needed.
VERBS_FILE = Path(__file__).with_name("verbs.txt")


def sources() -> dict[Path, str]:
    """Return every Python source file that is not a package's `__init__`, with its text."""
    files = (path for folder in PACKAGES.values() for path in sorted((ROOT / folder).rglob("*.py")))
    return {path: path.read_text() for path in files if path.name != "__init__.py"}


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(path.read_text())


def functions(tree: ast.Module) -> Iterator[Function]:
    """Yield the functions and methods of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines_of(node: Function) -> int:
    """Return the number of lines of a function, its docstring and decorators not counted."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def is_property(node: Function) -> bool:
    """Tell whether a function is read as an attribute."""
    names = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}
    return bool(names & {"property", "cached_property", "setter"})


def test_files_are_one_sitting_long() -> None:
    sizes = {path: text.count("\n") for path, text in sources().items()}
    assert {str(path): size for path, size in sizes.items() if size > 400} == {}
    assert 130 <= statistics.median(sizes.values()) <= 260
    small = [path for path, size in sizes.items() if size < SMALL_FILE]
    assert len(small) <= 0.08 * len(sizes), sorted(map(str, small))


def test_functions_are_at_most_forty_lines() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": lines_of(node)
        for path in sources()
        for node in functions(tree_of(path))
        if lines_of(node) > 40
    }
    assert long == {}


def test_folders_hold_at_most_sixteen_files() -> None:
    roots = [ROOT / folder for folder in (*PACKAGES.values(), "tests")]
    files = [path for root in roots for path in root.rglob("*") if path.suffix in {".py", ".sh", ".sbatch"}]
    counts = Counter(
        path.parent.relative_to(ROOT)
        for path in files
        if path.name != "__init__.py" and "node_modules" not in path.parts
    )
    assert {str(folder): count for folder, count in counts.items() if count > 16} == {}


def test_public_docstrings_begin_with_an_imperative_verb() -> None:
    verbs = set(VERBS_FILE.read_text().split())
    good, other = 0, []
    for path in sources():
        for node in functions(tree_of(path)):
            docstring = ast.get_docstring(node)
            if node.name.startswith("_") or is_property(node) or not docstring:
                continue
            if docstring.split()[0].rstrip(".,:;") in verbs:
                good += 1
            else:
                other.append(f"{path.relative_to(ROOT)}:{node.lineno}: {docstring.splitlines()[0]}")
    assert good >= 0.95 * (good + len(other)), "\n".join(other)


def test_class_names_belong_to_one_package() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    owners[node.name].add(package)
    shared = {name: sorted(packages) for name, packages in owners.items() if len(packages) > 1}
    assert {name: packages for name, packages in shared.items() if name not in SHARED_CLASS_NAMES} == {}
    assert len(SHARED_CLASS_NAMES) <= 8
    assert set(SHARED_CLASS_NAMES) <= set(shared), "a name on the list is not shared any more"


def test_sentences_of_the_program_name_no_class() -> None:
    """A class that is renamed everywhere at once is renamed in the texts that people read, too."""
    trees = {path: tree_of(path) for path in sources()}
    classes = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    names = "|".join(sorted(name for name in classes if re.match(r"[A-Z][a-z0-9]+[A-Z]", name)))
    in_a_sentence = re.compile(rf"[a-z]{{2,}}[.,:?]? ({names})\b|\b({names})[.,:?]? [a-z]{{2,}}")
    docstrings = {id(node.value) for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value[:60]}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        if in_a_sentence.search(node.value)
    }
    assert found == set()


def test_architecture_page_is_short() -> None:
    assert (ROOT / "ARCHITECTURE.md").read_text().count("\n") <= 120
