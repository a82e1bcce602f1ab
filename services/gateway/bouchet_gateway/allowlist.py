"""Programs and paths that may be used on the cluster. Pure: argv or a path in, a value or NotAllowedError out.

Every service with the gateway's token can use its API. The list keeps a bug there (or a stolen token) from becoming a
shell: only Slurm's programs with the subcommands that we use, our own scripts, and files below the site's directories.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bouchet_core.errors import NotAllowedError

_JOB_ID = re.compile(r"^\d+([_+]\d+)?$")
_SCANCEL_OPTIONS = re.compile(r"^(-[bfQv]+|--(batch|full|quiet|verbose|signal=[A-Z0-9]+)|-s[A-Z0-9]+)$")
# options without a value: after one with a value (`-M show`) another command could follow
_SHOW_OPTION = re.compile(r"^(-[odnpPQ]+|--(oneliner|details|noheader|parsable2?|quiet|json|yaml))$")
# only long options as name=value, so that no value is a separate argument; never --wrap, which takes a command line
_SBATCH_OPTION = re.compile(r"^--(?!wr)([a-z][a-z0-9-]*)(?:=(.*))?$", re.DOTALL)
_SBATCH_FILES = ("output", "error", "input", "chdir", "export-file", "bbf", "container")
_SHOW_COMMANDS = frozenset({"show", "list"})
_APPTAINER_COMMANDS = frozenset({"version", "inspect", "verify", "--version"})
_TEST_FLAGS = frozenset({"-d", "-e", "-f", "-r", "-s", "-w", "-x"})
_INTERPRETERS = frozenset({"bash", "sh", "python3"})
# programs that only read: running them twice changes nothing on the cluster
_REPEATABLE = frozenset({"squeue", "sacct", "sinfo", "scontrol", "sacctmgr", "apptainer", "getent", "test"})


@dataclass(frozen=True)
class Allowlist:
    """The rules for one site."""

    # directories on the cluster that files may be read from and written to
    roots: tuple[str, ...]
    # the directory of our own scripts
    scripts: str

    def allowed_path(self, path: str) -> str:
        """Return the path, normalized, if it is below one of the roots. `~/` is the remote home."""
        normal = normalized(path)
        if any(_is_below(normal, normalized(root)) for root in self.roots):
            return normal
        raise NotAllowedError(f"{path!r} is outside the site's directories ({', '.join(self.roots)})")

    def check_argv(self, argv: Sequence[str]) -> None:
        """Raise NotAllowedError unless this command may run."""
        if not argv:
            raise NotAllowedError("an empty command cannot run")
        if any("\0" in argument for argument in argv):
            raise NotAllowedError("an argument of a command cannot contain a NUL character")
        rule = _RULES.get(argv[0], Allowlist._script)
        rule(self, argv)

    def is_repeatable(self, argv: Sequence[str]) -> bool:
        """Return whether the command only reads, so that it may run again when its output was lost."""
        return argv[0] in _REPEATABLE

    def _read_only(self, argv: Sequence[str]) -> None:
        """Allow a program that only reads, whatever its options."""

    def _sbatch(self, argv: Sequence[str]) -> None:
        arguments = list(argv[1:])
        while arguments and arguments[0].startswith("-"):
            self._sbatch_option(arguments.pop(0))
        if arguments:
            self._script(arguments[:1])
        elif "--test-only" not in argv:
            raise NotAllowedError("sbatch needs one of our own scripts; a script on stdin is allowed with --test-only")
        for argument in arguments[1:]:
            if "/" in argument or argument.startswith("~"):
                self.allowed_path(argument)

    def _sbatch_option(self, argument: str) -> None:
        option = _SBATCH_OPTION.match(argument)
        if not option:
            raise NotAllowedError(f"sbatch option {argument!r} is not allowed; use --name=value")
        name, value = option.group(1), option.group(2) or ""
        # Slurm accepts any unique beginning of an option's name
        if value.startswith(("/", "~")) or any(full.startswith(name) for full in _SBATCH_FILES):
            self.allowed_path(value)

    def _scancel(self, argv: Sequence[str]) -> None:
        jobs = [argument for argument in argv[1:] if not _SCANCEL_OPTIONS.match(argument)]
        if not jobs or not all(_JOB_ID.match(job) for job in jobs):
            raise NotAllowedError("scancel is allowed with job ids only, not with options that select many jobs")

    def _show(self, argv: Sequence[str]) -> None:
        arguments = [argument for argument in argv[1:] if not _SHOW_OPTION.match(argument)]
        if not arguments or arguments[0] not in _SHOW_COMMANDS or any(a.startswith("-") for a in arguments):
            raise NotAllowedError(f"{argv[0]} is allowed with `show` only, not with {' '.join(argv[1:3])!r}")

    def _apptainer(self, argv: Sequence[str]) -> None:
        if len(argv) < 2 or argv[1] not in _APPTAINER_COMMANDS:
            allowed = ", ".join(sorted(_APPTAINER_COMMANDS))
            raise NotAllowedError(f"apptainer is allowed on the login node with these commands only: {allowed}")

    def _test(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] not in _TEST_FLAGS:
            raise NotAllowedError("test is allowed with one flag and one path only")
        self.allowed_path(argv[2])

    def _getent(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] != "passwd" or not argv[2].isdigit():
            raise NotAllowedError("getent is allowed as `getent passwd UID` only")

    def _interpreter(self, argv: Sequence[str]) -> None:
        if len(argv) < 2:
            raise NotAllowedError(f"{argv[0]} needs one of our own scripts")
        self._script(argv[1:])

    def _script(self, argv: Sequence[str]) -> None:
        if "/" in argv[0] and not argv[0].startswith("-"):
            script = normalized(argv[0])
            if script != normalized(self.scripts) and _is_below(script, normalized(self.scripts)):
                return
        raise NotAllowedError(f"{argv[0]!r} is not on the gateway's allowlist")


_RULES: dict[str, Callable[[Allowlist, Sequence[str]], None]] = {
    "sbatch": Allowlist._sbatch,
    "squeue": Allowlist._read_only,
    "sacct": Allowlist._read_only,
    "sinfo": Allowlist._read_only,
    "scancel": Allowlist._scancel,
    "scontrol": Allowlist._show,
    "sacctmgr": Allowlist._show,
    "apptainer": Allowlist._apptainer,
    "getent": Allowlist._getent,
    "test": Allowlist._test,
    **dict.fromkeys(_INTERPRETERS, Allowlist._interpreter),
}


def normalized(path: str) -> str:
    """Return the path without `.` and doubled slashes; raise NotAllowedError for a relative path or one with `..`."""
    if "\0" in path or ".." in path.split("/"):
        raise NotAllowedError(f"path {path!r} is not allowed: it contains `..` or a NUL character")
    if path != "~" and not path.startswith(("/", "~/")):
        raise NotAllowedError(f"path {path!r} is not allowed: it must begin with `/` or `~/`")
    # normpath keeps two leading slashes, which POSIX allows to mean something else than one
    return re.sub("^//", "/", posixpath.normpath(path))


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
