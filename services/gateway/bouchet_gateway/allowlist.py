"""What may run and be touched on the cluster. Pure: argv and paths in, a value or NotAllowedError out.

The door is open to rooms that hold its token. The list keeps a bug there (or a stolen token) from becoming a shell:
only Slurm's programs with the subcommands we use, our own scripts, and files below the directories the site names.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bouchet_core.errors import NotAllowedError

_JOB_ID = re.compile(r"^\d+([_+]\d+)?$")
_SCANCEL_OPTIONS = re.compile(r"^(-[bfQv]+|--(batch|full|quiet|verbose|signal=[A-Z0-9]+)|-s[A-Z0-9]+)$")
# none takes a word of its own: behind `-M show` would stand another command
_SHOW_OPTION = re.compile(r"^(-[odnpPQ]+|--(oneliner|details|noheader|parsable2?|quiet|json|yaml))$")
# name=value; long options alone, so that no value stands apart, and never the one that makes a script of a word
_SBATCH_OPTION = re.compile(r"^--(?!wr)([a-z][a-z0-9-]*)(?:=(.*))?$", re.DOTALL)
_SBATCH_FILES = ("output", "error", "input", "chdir", "export-file", "bbf", "container")
_SHOW_WORDS = frozenset({"show", "list"})
_APPTAINER_WORDS = frozenset({"version", "inspect", "verify", "--version"})
_TEST_FLAGS = frozenset({"-d", "-e", "-f", "-r", "-s", "-w", "-x"})
_INTERPRETERS = frozenset({"bash", "sh", "python3"})
# asking twice changes nothing on the cluster
_REPEATABLE = frozenset({"squeue", "sacct", "sinfo", "scontrol", "sacctmgr", "apptainer", "getent", "test"})


@dataclass(frozen=True)
class Allowlist:
    """roots: directories of ours on the cluster. scripts: the one that holds our own programs."""

    roots: tuple[str, ...]
    scripts: str

    def path(self, path: str) -> str:
        """The path, tidied, if it lies in one of the roots. `~/` is the remote home."""
        tidy = tidied(path)
        if any(_is_below(tidy, tidied(root)) for root in self.roots):
            return tidy
        raise NotAllowedError(f"{path!r} is outside the site's directories ({', '.join(self.roots)})")

    def argv(self, argv: Sequence[str]) -> None:
        """Raises NotAllowedError unless this command line may run."""
        if not argv:
            raise NotAllowedError("an empty command cannot run")
        if any("\0" in word for word in argv):
            raise NotAllowedError("a word of a command cannot hold a NUL character")
        rule = _RULES.get(argv[0], Allowlist._script)
        rule(self, argv)

    def is_repeatable(self, argv: Sequence[str]) -> bool:
        """Whether the command only looks, so that it may run again when its answer was lost."""
        return argv[0] in _REPEATABLE

    def _anything(self, argv: Sequence[str]) -> None:
        """Programs that only look, whatever their options."""

    def _sbatch(self, argv: Sequence[str]) -> None:
        words = list(argv[1:])
        while words and words[0].startswith("-"):
            self._sbatch_option(words.pop(0))
        if words:
            self._script(words[:1])
        elif "--test-only" not in argv:
            raise NotAllowedError("sbatch takes one of our own scripts; what it reads from its input can only be tried")
        for word in words[1:]:
            if "/" in word or word.startswith("~"):
                self.path(word)

    def _sbatch_option(self, word: str) -> None:
        option = _SBATCH_OPTION.match(word)
        if not option:
            raise NotAllowedError(f"sbatch option {word!r} is not allowed; long ones with their value behind `=` are")
        name, value = option.group(1), option.group(2) or ""
        # Slurm takes the beginning of an option for the whole
        if value.startswith(("/", "~")) or any(full.startswith(name) for full in _SBATCH_FILES):
            self.path(value)

    def _scancel(self, argv: Sequence[str]) -> None:
        words = [word for word in argv[1:] if not _SCANCEL_OPTIONS.match(word)]
        if not words or not all(_JOB_ID.match(word) for word in words):
            raise NotAllowedError("scancel takes job ids here and nothing that names many jobs at once")

    def _show(self, argv: Sequence[str]) -> None:
        words = [word for word in argv[1:] if not _SHOW_OPTION.match(word)]
        if not words or words[0] not in _SHOW_WORDS or any(word.startswith("-") for word in words):
            raise NotAllowedError(f"{argv[0]} may only show; {' '.join(argv[1:3])!r} is not on the allow-list")

    def _apptainer(self, argv: Sequence[str]) -> None:
        if len(argv) < 2 or argv[1] not in _APPTAINER_WORDS:
            raise NotAllowedError(f"apptainer may only {', '.join(sorted(_APPTAINER_WORDS))} on the login node")

    def _test(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] not in _TEST_FLAGS:
            raise NotAllowedError("test takes one flag and one path here")
        self.path(argv[2])

    def _getent(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] != "passwd" or not argv[2].isdigit():
            raise NotAllowedError("getent may only name a user by number: getent passwd UID")

    def _interpreter(self, argv: Sequence[str]) -> None:
        if len(argv) < 2:
            raise NotAllowedError(f"{argv[0]} needs one of our own scripts")
        self._script(argv[1:])

    def _script(self, argv: Sequence[str]) -> None:
        if "/" in argv[0] and not argv[0].startswith("-"):
            script = tidied(argv[0])
            if script != tidied(self.scripts) and _is_below(script, tidied(self.scripts)):
                return
        raise NotAllowedError(f"{argv[0]!r} is not on the gateway's allow-list")


_RULES: dict[str, Callable[[Allowlist, Sequence[str]], None]] = {
    "sbatch": Allowlist._sbatch,
    "squeue": Allowlist._anything,
    "sacct": Allowlist._anything,
    "sinfo": Allowlist._anything,
    "scancel": Allowlist._scancel,
    "scontrol": Allowlist._show,
    "sacctmgr": Allowlist._show,
    "apptainer": Allowlist._apptainer,
    "getent": Allowlist._getent,
    "test": Allowlist._test,
    **dict.fromkeys(_INTERPRETERS, Allowlist._interpreter),
}


def tidied(path: str) -> str:
    """The path without `.` and doubled slashes; NotAllowedError when it is relative or climbs."""
    if "\0" in path or ".." in path.split("/"):
        raise NotAllowedError(f"{path!r} is not a path that may be used: no `..`")
    if path != "~" and not path.startswith(("/", "~/")):
        raise NotAllowedError(f"{path!r} is not a path that may be used: begin with `/` or `~/`")
    # POSIX keeps two leading slashes apart from one; nobody means that here
    return re.sub("^//", "/", posixpath.normpath(path))


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
