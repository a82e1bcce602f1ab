"""Every command line that a page shows exists: `bouchet` and `make` are asked, and of others a test runs the line.

A block of a page has its language, and `bash` blocks are command lines. Text between single backticks is one where it
begins with a program's name. Words in capitals stand for a value.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bouchet_cli.arguments import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")] + sorted(ROOT.glob("docs/*.md"))
BLOCK = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
OURS = ("bouchet", "./bouchet")
PROGRAMS = (
    *(
        "make",
        "eval",
        "echo",
        "export",
        "git",
        "curl",
        "docker",
        "ssh",
        "ssh-add",
        "chown",
        "ls",
        "brew",
        "uv",
        "colima",
    ),
    *(
        "xcode-select",
        "apptainer",
        "skopeo",
        "sacct",
        "sacctmgr",
        "sinfo",
        "scontrol",
        "sbatch",
        "squeue",
        "module",
        "pip",
    ),
)
# what pages write for a value of a certain form
PLACEHOLDERS = {"COMMAND": "status"}
AFTER_OPTION = {"--for": "codex"}
PREFIX = re.compile(r"^[A-Z_]+=(?:\$\([^)]*\)|\S+) ")

README_REQUEST = "tests/proxy/test_process.py::test_request_of_the_readme_is_answered"
WAITS = "tests/sim/test_sim.py::test_shown_pipeline_makes_waits_that_the_simulation_reads"
SCRIPTS = "tests/setup/test_host_scripts.py"
# of other programs: the test that runs the line
RUN_BY = {
    ". ./.env": README_REQUEST,
    "curl http://127.0.0.1:4000/v1/messages": README_REQUEST,
    "sacct -X -u": WAITS,
    ".venv/bin/python -m tests.sim": WAITS,
    "PYTHON=$(uv python find 3.13) make up": f"{SCRIPTS}::test_makefile_calls_the_python_that_is_chosen",
    "ssh -G bouchet": "tests/setup/files/test_ssh_config.py::test_resolve_hosts_leads_where_ssh_goes",
}
# ... and lines that no test can run, with the reason
NOT_RUN = {
    "git pull": "changes the checkout",
    "git clone": "is named without an address",
    "brew install python@3.13": "for macOS",
    "xcode-select --install": "for macOS",
    "uv python install 3.13": "fetches an interpreter",
    "ssh-add --apple-use-keychain": "for macOS",
    "colima start --ssh-agent": "for macOS",
    "docker run --rm -v VOLUME:/v": "needs an engine and a public image",
    "module load": "a site's own module",
    "ssh bouchet": "a person's own login",
    "ssh -L": "an option that is named",
    "ssh -W": "an option that is named",
    "ssh HOST nc": "a ProxyCommand that is named",
    "ssh -N -L 4000:127.0.0.1:4000 server": "a person's own server",
    "ssh -N -L 4001:127.0.0.1:4001 server": "a person's own server",
    "ls -d ~/project_pi_*": "lists a person's folders",
    "chown 10001 ~/.ssh/id_ed25519": "changes a person's key",
    "apptainer inspect <pin>.sif": "needs an image that was built",
    "apptainer key newpair": "asks for a passphrase",
    "skopeo copy --preserve-digests": "needs a registry",
    "sinfo -": "a question to a real Slurm",
    "sacctmgr show": "a question to a real Slurm",
    "scontrol show partition": "a question to a real Slurm",
    "sbatch --test-only": "an option that is named",
    "export ANTHROPIC_BASE_URL=": "sets variables",
    "export OPENAI_BASE_URL=": "sets variables",
    "export BOUCHET_API_KEY=": "sets a variable; the command in it is parsed",
    'echo "Why?"': "part of a pipe; the command behind it is parsed",
}


def shown_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of a page: language and text."""
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text())]


def split_block(text: str) -> Iterator[str]:
    """Yield the commands of a block, each with its continuation lines: as many as make whole shell."""
    pending = ""
    for line in text.splitlines():
        pending += f"{line}\n"
        whole = subprocess.run(["bash", "-n"], input=pending, text=True, capture_output=True, check=False, timeout=30)
        if whole.returncode == 0 and not line.endswith("\\"):
            if pending.strip():
                yield pending.strip()
            pending = ""
    assert not pending.strip(), f"not whole: {pending}"


def shown_lines(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield the command lines of a page, and whether each is in a block, where nothing may be left out."""
    for language, text in shown_blocks(page):
        if language == "bash":
            yield from ((line, True) for line in split_block(text))
    for match in INLINE.finditer(BLOCK.sub("", page.read_text())):
        line = " ".join(match[1].replace("\\|", "|").split())
        if PREFIX.sub("", line).split(" ")[0] in (*OURS, *PROGRAMS) and " " in line:
            yield line, False


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line: those of pipes, of `&&` and of `$(...)` too."""
    for inner in SUBSTITUTION.findall(line):
        yield from simple_commands(inner)
    plain = re.sub(r"<[a-z]+>|\[(?=-)|\](?= |$)", "", SUBSTITUTION.sub("VALUE", line.replace("\\\n", " ")))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in [*lexer, ";"]:
        if not re.fullmatch(r"[;&|()<>]+", token):
            words += [] if redirected else [token]
            redirected = False
        elif set(token) & set("<>"):
            redirected = True
        elif words:
            yield words
            words = []


COMMANDS = sorted({(page.name, line, strict) for page in PAGES for line, strict in shown_lines(page)})
PARSED = [(page, words, strict) for page, line, strict in COMMANDS for words in simple_commands(line)]
BOUCHET = sorted({(page, shlex.join(words), strict) for page, words, strict in PARSED if words[0] in OURS})
MAKE = sorted({(page, shlex.join(words)) for page, words, _ in PARSED if words[0] == "make"})
OTHERS = sorted({(page, line) for page, line, _ in COMMANDS if line.split(" ")[0] not in (*OURS, "make", "eval")})


def filled(words: list[str]) -> Iterator[str]:
    """Yield words with values for the words in capitals; dots are left out."""
    for before, word in zip(["", *words], words, strict=False):
        if word != "...":
            yield (
                AFTER_OPTION.get(before, word)
                if word.isupper() and before in AFTER_OPTION
                else PLACEHOLDERS.get(word, word)
            )


def test_lines_are_found() -> None:
    assert len(BOUCHET) > 60 and len(MAKE) > 10 and len(OTHERS) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_have_a_language(page: Path) -> None:
    assert [text for language, text in shown_blocks(page) if not language] == []


@pytest.mark.parametrize(("page", "line", "strict"), BOUCHET)
def test_bouchet_takes_the_line(page: str, line: str, strict: bool) -> None:
    words = list(filled(shlex.split(line)[1:]))
    is_name = not strict and all(re.fullmatch("[a-z]+", word) for word in words)
    if is_name or "--help" in words:
        # a command that is only named: its own help exists
        with pytest.raises(SystemExit) as ended:
            parse([*words, "--help"])
        assert ended.value.code == 0
    else:
        parse(words)


@pytest.mark.parametrize(("page", "line"), MAKE)
def test_make_has_the_target(page: str, line: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = shlex.split(line)[1:]
    targets = [word for word in words if "=" not in word]
    assert targets and all(re.search(rf"^{re.escape(target)}:", makefile, re.M) for target in targets)
    assert all(f"$({word.split('=')[0]})" in makefile for word in words if "=" in word)


@pytest.mark.parametrize(("page", "line"), OTHERS)
def test_another_program_is_run_by_a_test(page: str, line: str) -> None:
    known = {**RUN_BY, **NOT_RUN}
    assert [start for start in known if line.startswith(start)] != []


def test_every_entry_of_the_lists_is_shown_and_every_test_exists() -> None:
    lines = [line for _, line, _ in COMMANDS]
    assert [start for start in (*RUN_BY, *NOT_RUN) if not any(line.startswith(start) for line in lines)] == []
    for test in RUN_BY.values():
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
        assert (ROOT / path).exists() and f"def {name}" in (text or "def "), test


def test_models_and_images_that_pages_name_exist() -> None:
    models = set(yaml.safe_load((ROOT / "models.yaml").read_text())["models"])
    pins = {path.parent.name for path in ROOT.glob("apptainer/pins/*/pin.yaml")}
    for _, line, _ in BOUCHET:
        words = list(filled(shlex.split(line)))
        if words[1:2] == ["image"] and len(words) > 3 and not words[3].isupper():
            assert words[3] in pins, line
        if words[1:2] == ["download"] and len(words) > 2 and not words[2].isupper():
            assert words[2] in models or words[2].startswith("hub-demo/"), line
