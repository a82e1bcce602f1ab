"""What runs on the cluster's nodes is held to bash 4.4 and Python 3.6, which RHEL 8 brings.

A real Python 3.6 runs the job's tests where the machine has one (conftest.py). A bash 4.4 is in no package source of
today: newer ones run the tests as BASH_COMPAT=4.4, which takes back changed meanings; new words are looked for here.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.remote.compute_node import SCRIPTS

SCRIPT_FILES = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file())

SHELL = sorted(name for name in SCRIPT_FILES if name.endswith((".sh", ".sbatch")))
# these run in the image, under its Python
IN_IMAGE = {"guard.py", "hub_fetch.py", "download_errors.py"}
PYTHON = sorted(name for name in SCRIPT_FILES if name.endswith(".py") and name not in IN_IMAGE)

# words and forms by the release of bash that brought them
NEWER_BASH = {
    "5.0": r"\bEPOCH(SECONDS|REALTIME)\b|\bBASH_ARGV0\b|\blocalvar_inherit\b|\bassoc_expand_once\b|\bwait -f\b",
    "5.1": r"\bSRANDOM\b|\$\{[^}]*@[UuLK]\}|\bwait -p\b|\bBASH_REMATCH\[[^]]*\]=|\bunset -n .*\[@\]|\bulimit -R\b",
    "5.2": r"\$\{[^}]*@k\}|\bpatsub_replacement\b|\bvarredir_close\b|\bnoexpand_translation\b|\b(declare|local) -I\b",
    "5.3": r"\$\{[ |]|\bGLOBSORT\b|\bcompgen -V\b|\bread -E\b|\bBASH_MONOSECONDS\b|\bsource -p\b",
}
# of the standard library, by the release of Python that brought them
NEWER_PYTHON = {
    "3.7": r"from __future__ import annotations|\bdataclass|\bcapture_output=|\btext=True|_ns\(\)|\bnullcontext\b"
    r"|\bfromisoformat\b|\bThreadingHTTPServer\b|\.isascii\(|\bimportlib\.resources\b|\bbreakpoint\(",
    "3.8": r"\bshlex\.join\b|\bmath\.(prod|dist)\b|\bcached_property\b|\bmissing_ok=|\bdirs_exist_ok=|\bTypedDict\b"
    r"|\bLiteral\b|\bProtocol\b|\bFinal\b",
    "3.9": r"\.remove(prefix|suffix)\(|\bfunctools\.cache\b|\b(list|dict|tuple|set|type)\[[a-zA-Z]|\bzoneinfo\b",
    "3.10": r"\bstrict=True|\bhashlib\.file_digest\b|\btomllib\b|\bpairwise\b|\bStrEnum\b",
}


def code_of(path: Path) -> str:
    """A script without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", path.read_text())


def newer(text: str, words: dict[str, str]) -> dict[str, str]:
    """What is too new in the text, by release."""
    found = {release: re.search(pattern, text) for release, pattern in words.items()}
    return {release: match[0] for release, match in found.items() if match}


@pytest.mark.parametrize("name", SHELL)
def test_a_script_has_no_words_of_a_newer_bash(name: str) -> None:
    assert newer(code_of(SCRIPTS / name), NEWER_BASH) == {}
    checked = subprocess.run(["bash", "-n", str(SCRIPTS / name)], env={"BASH_COMPAT": "4.4"}, stderr=subprocess.PIPE)
    assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize("line", ["t=$EPOCHSECONDS", "echo ${x@U}", "wait -n -p pid; wait -p pid", "y=${ date; }"])
def test_the_look_for_newer_words_finds_them(line: str) -> None:
    assert newer(line, NEWER_BASH)


@pytest.mark.parametrize("name", PYTHON)
def test_a_module_keeps_to_python_3_6(name: str) -> None:
    text = (SCRIPTS / name).read_text()
    ast.parse(text, feature_version=(3, 6))
    assert newer(re.sub(r"st_\w+_ns", "", code_of(SCRIPTS / name)), NEWER_PYTHON) == {}


@pytest.mark.parametrize("line", ["run(x, capture_output=True)", "def f(x: list[str])", "s.removeprefix('x')"])
def test_the_look_for_newer_functions_finds_them(line: str) -> None:
    assert newer(line, NEWER_PYTHON)
