"""Every command line that a page shows exists: `bouchet` and `make` are asked, and of others a test runs the line.

A block of a page has its language, and `bash` blocks are command lines. Text between single backticks is one where it
begins with a program's name, or with a command of `bouchet`; any other text of several words there is an option, a
request, a setting, or one of a list. So are the command lines in messages and comments. Words in capitals stand for a
value.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bouchet_api.openapi.errors import ERROR_KINDS
from bouchet_cli.arguments import command_parser, parse
from bouchet_cli.commands import COMMANDS as OUR_COMMANDS

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
        "nc",
        "ip",
        "rm",
        "cat",
        "vllm",
        "mypy",
    ),
)
# what pages write for a value of a certain form
PLACEHOLDERS = {"COMMAND": "status", "PORT": "8000", "P": "8000"}
AFTER_OPTION = {"--for": "codex", "--adopt": "123456", "--cancel": "123456", "image": "build"}
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
    **dict.fromkeys(
        (
            "export ANTHROPIC_BASE_URL=https://llm.lab.example",
            "export ANTHROPIC_AUTH_TOKEN=KEY",
            "export OPENAI_BASE_URL=https://llm.lab.example/v1",
            "export OPENAI_API_KEY=KEY",
        ),
        "tests/cli/commands/test_keys.py::test_lines_of_the_page_are_those_that_are_printed",
    ),
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
    "export BOUCHET_API_KEY=": "sets a variable; the command in it is parsed",
    'echo "Why?"': "part of a pipe; the command behind it is parsed",
    "nc %h %p": "a ProxyCommand that is named",
    "ip -4 addr show docker0": "needs an engine",
    "rm -r": "removes a person's files",
    "cat .env": "what a model may be led to run",
    "vllm serve": "a program that is named",
    "mypy --strict": "what `make check` runs",
}
# options of other programs, and whose they are
OTHER_OPTIONS = {
    **dict.fromkeys(
        (
            *("--max-model-len", "--tool-call-parser", "--reasoning-parser", "--allowed-media-domains"),
            *("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--max-num-seqs", "--max-num-batched-tokens"),
            *("--enforce-eager", "--no-enable-prefix-caching", "--quantization", "--hf-overrides", "--rope-scaling"),
            *("--node-rank", "--headless"),
        ),
        "vLLM",
    ),
    "--require-hashes": "pip",
    "--mem": "sbatch",
    **dict.fromkeys(("--tools", "--strict-mcp-config"), "Claude Code"),
    **dict.fromkeys(("--seeds", "--waits"), "python -m tests.sim"),
}
# a setting and its value, in YAML or in `.env`
SETTING = re.compile(r"\{?[a-z][a-z0-9_]*: \S+|[A-Z][A-Z0-9_]+: \S+")
REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")
# other text of several words: what programs print, and parts of files of other programs
OTHER_TEXT = {
    "/model default",
    "8 h x 4 H200 = 9,600 SU",
    "GPU KV cache size",
    "Model loading took",
    "Quota (UNIT)",
    "Usage (UNIT)",
    "attached; not ours; never cancelled",
    "gpu memory x --gpu-memory-utilization - weights - own work = KV cache",
    "gssapiauthentication yes",
    "host bouchet bouchet 172.16.0.0/12 scram-sha-256",
    "image_job.py detach",
    "its files in ... could not be written",
    "partial 43 %",
    "prompt is too long: N tokens > M maximum",
    "ready without tools",
    "the cluster has not answered for ...",
    "the model in ... is not complete",
    "setenv NAME VALUE",
    "x-should-retry: false",
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
    for line in inline_texts(page):
        if PREFIX.sub("", line).split(" ")[0] in (*OURS, *PROGRAMS):
            yield line, False
        elif line.split(" ")[0] in OUR_COMMANDS:
            yield f"bouchet {line}", False


def inline_texts(page: Path) -> Iterator[str]:
    """Yield the texts of several words that stand between single backticks."""
    for match in INLINE.finditer(BLOCK.sub("", page.read_text())):
        line = " ".join(match[1].replace("\\|", "|").split())
        if " " in line:
            yield line


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


def options_of_ours() -> set[str]:
    """Return every option that some command of `bouchet` takes."""
    parsers = [command_parser(name) for name in OUR_COMMANDS]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def other_texts() -> Iterator[tuple[str, str]]:
    """Yield (page, text) for the texts of several words that are no command lines."""
    for page in PAGES:
        for line in inline_texts(page):
            first = PREFIX.sub("", line).split(" ")[0]
            if first not in (*OURS, *PROGRAMS, *OUR_COMMANDS) and page.name != "cli.md":
                yield page.name, line


def test_every_option_that_pages_name_exists() -> None:
    known = options_of_ours()
    assert not known & set(OTHER_OPTIONS)
    named = {
        option
        for _, line in other_texts()
        if line not in OTHER_TEXT
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)
    }
    alone = {
        option
        for page in PAGES
        for option in re.findall(r"(?<!`)`(--[a-z][a-z-]*)`", BLOCK.sub("", page.read_text()))
        if page.name != "cli.md"
    }
    assert named | alone <= known | set(OTHER_OPTIONS), named | alone
    assert set(OTHER_OPTIONS) <= named | alone | set(re.findall(r"--[a-z-]+", " ".join(OTHER_TEXT)))


def test_every_text_of_pages_is_of_a_known_kind() -> None:
    found = {line for _, line in other_texts() if not line.startswith("--")}
    others = {line for line in found if not SETTING.fullmatch(line) and not REQUEST.fullmatch(line)}
    assert others == OTHER_TEXT


def test_every_request_that_pages_show_has_a_route() -> None:
    proxy = json.loads((ROOT / "schemas" / "proxy-openapi.json").read_text())["paths"]
    routes = {(method.upper(), path) for method, path in ERROR_KINDS}
    routes |= {(method.upper(), path) for path, methods in proxy.items() for method in methods}
    shapes = {(method, re.sub(r"\{[^}]*\}", "ID", path)) for method, path in routes}
    shown = {(match[1], match[2]) for _, line in other_texts() if (match := REQUEST.fullmatch(line))}
    assert len(shown) > 5 and shown <= shapes, shown - shapes


# where a program or a file names a command; what the tests themselves and lists of changes write does not count
NAMING = {".py", ".js", ".sh", ".sbatch", ".yaml", ".md", ".html", ".def", ".example", ""}
NAMED = re.compile(r"`((?:\./)?bouchet [^`\n]+|make [^`\n]+)`")
VALUE = "VALUE"


def naming_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file: of Python its strings, with VALUE where something is put in, and its comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        text = re.sub(r"\$\{[^}]*\}", VALUE, text).replace("\\`", "`")
    if path.suffix != ".py":
        yield text
        return
    parts: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            yield "".join(str(value.value) if isinstance(value, ast.Constant) else VALUE for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value
    yield from re.findall(r"#.*", text)


def named_commands() -> set[str]:
    """Return the command lines of `bouchet` and `make` that messages, comments and decisions name."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", ":!tests", ":!CHANGELOG.md"]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    paths = [path for name in names if name and (path := ROOT / name).suffix in NAMING and path.is_file()]
    texts = (text for path in paths for text in naming_texts(path))
    lines = (match[1].replace("\\|", "|") for text in texts for match in NAMED.finditer(text))
    found = {re.sub(r"\$\{?\w+\}?", VALUE, line) for line in lines}
    return {line for line in found if line.split(" ")[1].strip("{}") not in (VALUE, "name", "TARGET", "--help")}


def test_every_command_that_messages_name_exists() -> None:
    named = named_commands()
    assert len(named) > 100
    for words in (words for line in named for words in simple_commands(line)):
        if words[0] == "make":
            test_make_has_the_target("", shlex.join(words))
        elif words[0] in OURS:
            test_bouchet_takes_the_line("", shlex.join(words), strict=False)
