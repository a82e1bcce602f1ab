"""Files of a job's folder and log records: read, replaced atomically, removed. Python 3.6, standard library.

It runs under whatever Python the cluster's operating system has (RHEL 8: 3.6), and in the image.
"""

import errno
import json
import os
import socket
import sys
from typing import Any, Callable, Dict, List, Optional

SPEC_VERSION = 1

Spec = Dict[str, Any]
# of one program, by the word on its command line
Commands = Dict[str, Callable[..., None]]


class JobRefusedError(Exception):
    """The job cannot start or go on; the message is for people."""


def read_spec(job_dir: str) -> Spec:
    """Read spec.json of the job's folder and expand `~` in its paths. JobRefusedError when it cannot be read."""
    try:
        with open(os.path.join(job_dir, "spec.json"), encoding="utf-8") as source:
            spec: Spec = json.load(source)
    except (OSError, ValueError) as exc:
        raise JobRefusedError("cannot read the job's spec.json: %s; launch again" % exc) from exc
    if spec.get("version") != SPEC_VERSION:
        message = "spec.json has version %r, this script reads version %d; launch again"
        raise JobRefusedError(message % (spec.get("version"), SPEC_VERSION))
    for name in ("root", "models_dir", "image"):
        spec[name] = os.path.expanduser(spec[name])
    spec.setdefault("listen", "network")
    return spec


def log_path(spec: Spec, name: str) -> str:
    """Return the path of a file in the logs folder; `{}` in its name is replaced by the job's Slurm id."""
    return os.path.join(spec["root"], "logs", name.format(os.environ["SLURM_JOB_ID"]))


def write_whole(path: str, text: str) -> None:
    """Replace a file atomically, mode 0600: readers see the old content or the new one."""
    beside = "%s.%d.tmp" % (path, os.getpid())
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
            target.flush()
            os.fsync(target.fileno())
        os.rename(beside, path)
    except OSError as exc:
        if os.path.exists(beside):
            os.remove(beside)
        # an error of write() carries no file name
        raise OSError(exc.errno, exc.strerror, path) from exc


def write_json(path: str, document: Dict[str, Any]) -> None:
    """Replace a JSON file atomically, mode 0600."""
    write_whole(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """Return the JSON object in a file, None where there is no file or no object."""
    try:
        with open(path, encoding="utf-8") as source:
            found = json.load(source)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_text(path: str) -> Optional[str]:
    """Return the stripped ASCII content of a small file, None where it is empty or cannot be read."""
    try:
        with open(path, encoding="ascii") as source:
            return source.read().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def remove_if_exists(path: str) -> None:
    """Remove a file that may not exist."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


def node_name() -> str:
    """Return the node's name as Slurm knows it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


def describe_disk_error(exc: OSError) -> str:
    """Return a message that names the file and the node, and says what to do."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space there, then launch again"
    else:
        advice = "launch again; if it happens again, contact the site's support"
    return "%s on %s: %s; %s" % (exc.filename or "a file", node_name(), exc.strerror, advice)


def run_command(argv: List[str], commands: Commands) -> int:
    """Run `argv[1]` with the arguments after it; return 1, with a message on stderr, when it fails."""
    try:
        commands[argv[1]](*argv[2:])
    except (JobRefusedError, OSError) as exc:
        sys.stderr.write("bouchet: %s\n" % exc)
        return 1
    return 0
