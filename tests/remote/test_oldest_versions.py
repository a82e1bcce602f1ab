"""Job scripts are limited to bash 4.4 and Python 3.6, which RHEL 8 has, and have unique names.

A real Python 3.6 runs the job's tests where the machine has one (compute_node.py). A bash 4.4 is not packaged any more:
newer ones run the tests with BASH_COMPAT=4.4, which restores changed behavior; newer syntax is searched for here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.remote.compute_node import REMOTE, SCRIPTS

SCRIPT_FILES = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file())

SHELL = sorted(name for name in SCRIPT_FILES if name.endswith((".sh", ".sbatch")))
# these run in the image, under its newer Python
IN_IMAGE = {
    *("guard.py", "resumable.py", "kept_answer.py", "cut_responses.py"),
    *("hub_fetch.py", "download_errors.py", "download_progress.py"),
}
PYTHON = sorted(name for name in SCRIPT_FILES if name.endswith(".py") and name not in IN_IMAGE)

# syntax and builtins, by the release of bash that introduced them
NEWER_BASH = {
    "5.0": r"\bEPOCH(SECONDS|REALTIME)\b|\bBASH_ARGV0\b|\blocalvar_inherit\b|\bassoc_expand_once\b|\bwait -f\b",
    "5.1": r"\bSRANDOM\b|\$\{[^}]*@[UuLK]\}|\bwait -p\b|\bBASH_REMATCH\[[^]]*\]=|\bunset -n .*\[@\]|\bulimit -R\b",
    "5.2": r"\$\{[^}]*@k\}|\bpatsub_replacement\b|\bvarredir_close\b|\bnoexpand_translation\b|\b(declare|local) -I\b",
    "5.3": r"\$\{[ |]|\bGLOBSORT\b|\bcompgen -V\b|\bread -E\b|\bBASH_MONOSECONDS\b|\bsource -p\b",
}
# of language and standard library, by the release of Python that introduced them
NEWER_PYTHON = {
    "3.7": r"from __future__ import annotations|\bdataclass|\bcapture_output=|\btext=True|_ns\(\)|\bnullcontext\b"
    r"|\bfromisoformat\b|\bThreadingHTTPServer\b|\.isascii\(|\bimportlib\.resources\b|\bbreakpoint\(",
    "3.8": r"\bshlex\.join\b|\bmath\.(prod|dist)\b|\bcached_property\b|\bmissing_ok=|\bdirs_exist_ok=|\bTypedDict\b"
    r"|\bLiteral\b|\bProtocol\b|\bFinal\b",
    "3.9": r"\.remove(prefix|suffix)\(|\bfunctools\.cache\b|\b(list|dict|tuple|set|type)\[[a-zA-Z]|\bzoneinfo\b",
    "3.10": r"\bstrict=True|\bhashlib\.file_digest\b|\btomllib\b|\bpairwise\b|\bStrEnum\b",
}


def code_of(path: Path) -> str:
    """Return a script without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", path.read_text())


def newer(text: str, patterns: dict[str, str]) -> dict[str, str]:
    """Return what is too new in the text, by release."""
    found = {release: re.search(pattern, text) for release, pattern in patterns.items()}
    return {release: match[0] for release, match in found.items() if match}


@pytest.mark.parametrize("name", SHELL)
def test_shell_script_uses_bash_4_4_only(name: str) -> None:
    assert newer(code_of(SCRIPTS / name), NEWER_BASH) == {}
    checked = subprocess.run(["bash", "-n", str(SCRIPTS / name)], env={"BASH_COMPAT": "4.4"}, stderr=subprocess.PIPE)
    assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize("line", ["t=$EPOCHSECONDS", "echo ${x@U}", "wait -n -p pid; wait -p pid", "y=${ date; }"])
def test_search_for_newer_bash_finds_it(line: str) -> None:
    assert newer(line, NEWER_BASH)


@pytest.mark.parametrize("name", PYTHON)
def test_module_uses_python_3_6_only(name: str) -> None:
    text = (SCRIPTS / name).read_text()
    ast.parse(text, feature_version=(3, 6))
    assert newer(re.sub(r"st_\w+_ns", "", code_of(SCRIPTS / name)), NEWER_PYTHON) == {}


@pytest.mark.parametrize("line", ["run(x, capture_output=True)", "def f(x: list[str])", "s.removeprefix('x')"])
def test_search_for_newer_python_finds_it(line: str) -> None:
    assert newer(line, NEWER_PYTHON)


def test_script_names_are_unique_over_all_folders() -> None:
    names = [path.name for path in REMOTE.glob("*/*") if path.suffix in (".py", ".sh", ".sbatch")]
    assert sorted(names) == sorted(set(names)) == SCRIPT_FILES, "they are staged into one folder"


def test_script_names_hide_no_module_of_standard_library() -> None:
    assert not {Path(name).stem for name in SCRIPT_FILES} & sys.stdlib_module_names


def test_each_folder_has_few_files() -> None:
    assert all(len(list(folder.glob("*.*"))) <= 16 for folder in REMOTE.iterdir() if folder.is_dir())
