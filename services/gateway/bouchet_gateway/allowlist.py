"""Programs and paths that may be used on the cluster. Pure: argv or a path in, a value or NotAllowedError out.

The worker's token opens commands and files, the API's the logs of jobs only. The list keeps a bug there (or a stolen
token) from becoming a shell on the login node: only Slurm's programs with the subcommands that we use, and the scripts
of this version, whose folder accepts no other files. It does not make the worker's token harmless: the files of a job
say what runs in that job (an image's recipe, a model's code) under the user's account, and with `download_on: login`
some of it on the login node.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any

from bouchet_core.config.job_scripts import ScriptBundle
from bouchet_core.config.site import Site
from bouchet_core.errors import NotAllowedError

_JOB_ID = re.compile(r"^\d+([_+]\d+)?\Z", re.ASCII)
_SCANCEL_OPTIONS = re.compile(r"^(-[bfQv]+|--(batch|full|quiet|verbose|signal=[A-Z0-9]+)|-s[A-Z0-9]+)\Z")
# options without a value: after one with a value (`-M show`) another command could follow
_SHOW_OPTION = re.compile(r"^(-[odnpPQ]+|--(oneliner|details|noheader|parsable2?|quiet|json|yaml))\Z")
# only long options as name=value, so that no value is a separate argument; never --wrap, which takes a command line
_SBATCH_OPTION = re.compile(r"^--(?!wr)([a-z][a-z0-9-]*)(?:=(.*))?\Z", re.DOTALL)
_SBATCH_FILES = ("output", "error", "input", "chdir", "export-file", "bbf", "container")
_SHOW_COMMANDS = frozenset({"show", "list"})
_APPTAINER_COMMANDS = frozenset({"version", "--version"})
# not `runawayjobs`, which offers a repair
_ACCOUNTING_TABLES = frozenset({"qos", "assoc"})
_TEST_FLAGS = frozenset({"-d", "-e", "-f", "-r", "-s", "-w", "-x", "-O"})
# remote/login, and what batch jobs run: these go on in the background of the login node with `detach`
_LOGIN_PROGRAMS = frozenset(
    {
        "cleanup.py",
        "inspect_hub.py",
        "inspect_model.py",
        "list_images.py",
        "list_models.py",
        "list_queue.py",
        "probe_login_node.py",
        "remove_model.py",
    }
)
_BATCH_PROGRAMS = frozenset({"download.py", "image_job.py"})
# no part of a model's id is `.` or `..`, which would lead elsewhere
_MODEL = re.compile(r"^(?!\.)[\w.-]+/(?!\.)[\w.-]+\Z", re.ASCII)
# Slurm replaces %j by the job's id; other patterns (%x is the job's name) could make any path
_LOG_PATTERN = "%j"
# programs that only read: running them twice changes nothing on the cluster
_REPEATABLE = frozenset({"squeue", "sacct", "sinfo", "scontrol", "sacctmgr", "apptainer", "getent", "test"})


class Allowlist:
    """The rules for one site, whose job scripts are those of the bundle."""

    def __init__(self, site: Site, bundle: ScriptBundle) -> None:
        self._site, self._bundle = site, bundle
        self.roots = site.allowed_roots
        self._root = normalized(site.root)
        self._scripts = normalized(bundle.folder(site.root))
        lines = (site.setup_lines, site.batch_setup_lines)
        self._setups = tuple("".join(f"{line}\n" for line in some).encode() for some in lines)

    def allowed_path(self, path: str) -> str:
        """Return the path, normalized, if it is below one of the roots. `~/` is the remote home."""
        normal = normalized(path)
        if any(_is_below(normal, normalized(root)) for root in self.roots):
            return normal
        raise NotAllowedError(f"{path!r} is outside the site's directories ({', '.join(self.roots)})")

    def log_path(self, path: str) -> str:
        """Return the path, normalized, if it is a file in the folder of the jobs' logs."""
        self._check_log(path)
        return normalized(path)

    def writable_path(self, path: str, data: bytes) -> str:
        """Return the path, normalized, if this content may be written there: a job's files, or one of our scripts."""
        normal = self.allowed_path(path)
        folder, name = posixpath.split(normal)
        if folder == self._scripts and self._bundle.staged_files().get(name) == data:
            return normal
        if _is_below(normal, f"{self._root}/remote"):
            raise NotAllowedError(f"{path!r} is not one of the gateway's own job scripts: run `make up`")
        if normal == f"{self._root}/logs/README":
            return normal
        if not _is_below(folder, f"{self._root}/jobs"):
            raise NotAllowedError(f"{path!r} is not below {self._root}/jobs, where the files of jobs are")
        self._check_job_file(name, data)
        return normal

    def _check_job_file(self, name: str, data: bytes) -> None:
        """Refuse programs of a job, as far as its site names them, that are not the site's."""
        if name == "setup.sh" and data not in self._setups:
            raise NotAllowedError("setup.sh differs from the setup_lines of the site file")
        if name == "spec.json":
            self._check_programs(data.decode("utf-8", "replace"), "spec.json")

    def _check_programs(self, text: str, place: str) -> None:
        """Refuse JSON that names another program to run than the site file."""
        allowed = {
            "apptainer": self._site.apptainer,
            "quota": list(self._site.quota_command),
            "quota_command": list(self._site.quota_command),
        }
        content = _object(text, place)
        for key, value in allowed.items():
            # an empty list runs nothing
            if content.get(key, value) not in (value, []):
                raise NotAllowedError(f"{key} in {place} differs from the site file")

    def check_argv(self, argv: Sequence[str], stdin: str | None = None) -> None:
        """Raise NotAllowedError unless this command may run with that standard input."""
        if not argv:
            raise NotAllowedError("an empty command cannot run")
        if any("\0" in argument for argument in argv):
            raise NotAllowedError("an argument of a command cannot contain a NUL character")
        rule = _RULES.get(argv[0])
        if rule is None:
            raise NotAllowedError(f"{argv[0]!r} is not on the gateway's allowlist")
        rule(self, argv)
        if argv[0] == "python3" and stdin is not None:
            self._check_request(posixpath.basename(argv[1]), stdin)

    def _check_request(self, program: str, stdin: str) -> None:
        if program == "probe_login_node.py":
            self._check_programs(stdin, "the request")
        elif program == "cleanup.py" and _object(stdin, "the request").get("root") != self._site.root:
            raise NotAllowedError("the request names another folder to clean up than the site file's root")

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
            if not self._own_script(arguments[0]).endswith(".sbatch"):
                raise NotAllowedError(f"{arguments[0]!r} is no batch script")
            self._check_scripts_folder(arguments[-1])
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
            normal = self.allowed_path(value)
            if _is_below(normal, f"{self._root}/remote") or "%" in normal.replace(_LOG_PATTERN, ""):
                raise NotAllowedError(f"sbatch option {argument!r} is not allowed: it could overwrite a script")

    def _scancel(self, argv: Sequence[str]) -> None:
        jobs = [argument for argument in argv[1:] if not _SCANCEL_OPTIONS.match(argument)]
        if not jobs or not all(_JOB_ID.match(job) for job in jobs):
            raise NotAllowedError("scancel is allowed with job ids only, not with options that select many jobs")

    def _show(self, argv: Sequence[str]) -> None:
        arguments = [argument for argument in argv[1:] if not _SHOW_OPTION.match(argument)]
        if not arguments or arguments[0] not in _SHOW_COMMANDS or any(a.startswith("-") for a in arguments):
            raise NotAllowedError(f"{argv[0]} is allowed with `show` only, not with {' '.join(argv[1:3])!r}")
        if argv[0] == "sacctmgr" and (len(arguments) < 2 or arguments[1] not in _ACCOUNTING_TABLES):
            raise NotAllowedError(f"sacctmgr shows these tables only: {', '.join(sorted(_ACCOUNTING_TABLES))}")

    def _apptainer(self, argv: Sequence[str]) -> None:
        if len(argv) != 2 or argv[1] not in _APPTAINER_COMMANDS:
            allowed = ", ".join(sorted(_APPTAINER_COMMANDS))
            raise NotAllowedError(f"apptainer is allowed on the login node with these commands only: {allowed}")

    def _test(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] not in _TEST_FLAGS:
            raise NotAllowedError("test is allowed with one flag and one path only")
        self.allowed_path(argv[2])

    def _getent(self, argv: Sequence[str]) -> None:
        if len(argv) != 3 or argv[1] != "passwd" or not argv[2].isdigit():
            raise NotAllowedError("getent is allowed as `getent passwd UID` only")

    def _python(self, argv: Sequence[str]) -> None:
        name = self._own_script(argv[1]) if len(argv) > 1 else ""
        at_login = self._site.download_on == "login"
        if name in _BATCH_PROGRAMS and at_login and len(argv) == 6 and argv[2] == "detach":
            self.allowed_path(argv[3])
            self._check_scripts_folder(argv[4])
            self._check_log(argv[5])
        elif name not in _LOGIN_PROGRAMS:
            raise NotAllowedError("python3 runs only the job scripts that are for the login node")
        else:
            self._check_login_arguments(name, argv[2:])

    def _check_login_arguments(self, name: str, arguments: Sequence[str]) -> None:
        """Refuse to look, and to remove, elsewhere than in the site's directories."""
        for path in (argument for argument in arguments if argument.startswith(("/", "~"))):
            self.allowed_path(path)
        if name == "remove_model.py" and (
            len(arguments) != 2 or arguments[0] != self._site.models_dir or not _MODEL.match(arguments[1])
        ):
            raise NotAllowedError("remove_model.py removes a model from models_dir, by its full id")

    def _check_scripts_folder(self, path: str) -> None:
        if normalized(path) != self._scripts:
            raise NotAllowedError(f"{path!r} is not the folder of the gateway's own job scripts: run `make up`")

    def _check_log(self, path: str) -> None:
        if posixpath.dirname(normalized(path)) != f"{self._root}/logs":
            raise NotAllowedError(f"{path!r} is not in the folder of logs")

    def _own_script(self, path: str) -> str:
        """Return the name of one of our own scripts; raise NotAllowedError for any other path."""
        if "/" in path and not path.startswith("-"):
            folder, name = posixpath.split(normalized(path))
            if folder == self._scripts and name in self._bundle.files:
                return name
        raise NotAllowedError(f"{path!r} is not one of the gateway's own job scripts: run `make up`")


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
    "python3": Allowlist._python,
}


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise NotAllowedError(f"{place} is not JSON") from exc
    if not isinstance(content, dict):
        raise NotAllowedError(f"{place} is not a JSON object")
    return content


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
