"""Uploading the job scripts, and running one of them on the login node: JSON in, JSON out."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from bouchet_core.config.job_scripts import COMPLETE_MARKER
from bouchet_core.errors import GatewayError, RemoteCommandError, RemoteFileMissingError, UntrustedFolderError

from .context import WorkerContext

log = logging.getLogger(__name__)

# a program on the login node reads folders of models or images, and hashes files only in its cache
SCRIPT_TIMEOUT_S = 60.0
# characters of an unreadable output that an error repeats
OUTPUT_SHOWN = 200
PARALLEL_GETS = 8
LOGS_README = b"Logs of bouchet-llm's jobs. Those of ended jobs may be deleted.\n"


def stage_scripts(context: WorkerContext) -> None:
    """Upload the job scripts, unless this version of them is on the cluster already.

    Raises UntrustedFolderError where another user owns their folder or one of ours above it.
    """
    if scripts_staged(context):
        _check_owner(context)
        if context.scripts_compared.is_set() or _are_ours(context):
            context.scripts_compared.set()
            return
        log.warning("the job scripts in %s were changed: they are uploaded again", context.scripts_dir)
    scripts = {f"{context.scripts_dir}/{name}": content for name, content in context.scripts.files.items()}
    context.gateway.put_all({**scripts, context.paths.logs_readme(): LOGS_README})
    context.gateway.put(_marker(context), b"")


def _check_owner(context: WorkerContext) -> None:
    """Check at each use: who can write to a folder above ours can put another folder into its place."""
    root = context.site.root
    for folder in (root, posixpath.dirname(context.scripts_dir), context.scripts_dir):
        try:
            context.gateway.run(["test", "-O", folder])
        except RemoteCommandError as exc:
            raise UntrustedFolderError(folder) from exc


def _are_ours(context: WorkerContext) -> bool:
    """Return whether the scripts on the cluster are those of this version, byte for byte."""

    def is_ours(script: tuple[str, bytes]) -> bool:
        name, content = script
        try:
            return context.gateway.get(f"{context.scripts_dir}/{name}").data == content
        except RemoteFileMissingError:
            return False

    with ThreadPoolExecutor(PARALLEL_GETS, "compare") as pool:
        return all(pool.map(is_ours, context.scripts.files.items()))


def scripts_staged(context: WorkerContext) -> bool:
    """Return whether this version of the job scripts is complete on the cluster."""
    return remote_file_exists(context, _marker(context))


def remote_file_exists(context: WorkerContext, path: str) -> bool:
    """Return whether that file exists on the cluster. Raises GatewayError where that cannot be checked."""
    try:
        context.gateway.get(path, max_bytes=1)
    except RemoteFileMissingError:
        return False
    return True


def run_script(
    context: WorkerContext,
    script: str,
    *arguments: str,
    request: object = None,
    timeout_s: float = SCRIPT_TIMEOUT_S,
    stage: bool = True,
) -> dict[str, Any]:
    """Run one of the job scripts on the login node, and return the JSON object that it prints.

    request: given to its standard input as JSON. stage=False uploads nothing, for callers that must leave the cluster
    as it is. Raises GatewayError when the script fails or prints something else, and RemoteFileMissingError when
    stage is False and the scripts are not on the cluster.
    """
    stdin = None if request is None else json.dumps(request)
    text = run_script_text(context, script, *arguments, stdin=stdin, timeout_s=timeout_s, stage=stage)
    with output_errors_mapped(script, text):
        output = json.loads(text)
        if not isinstance(output, dict):
            raise TypeError("not a JSON object")
        return output


def run_script_text(
    context: WorkerContext,
    script: str,
    *arguments: str,
    stdin: str | None = None,
    timeout_s: float = SCRIPT_TIMEOUT_S,
    stage: bool = True,
) -> str:
    """Run one of the job scripts as `run_script` does, and return what it prints as text."""
    if stage:
        stage_scripts(context)
    else:
        context.gateway.get(_marker(context), max_bytes=1)
        _check_owner(context)
    argv = ["python3", f"{context.scripts_dir}/{script}", *arguments]
    return context.gateway.run(argv, stdin=stdin, timeout_s=timeout_s).stdout


@contextmanager
def output_errors_mapped(script: str, output: object) -> Iterator[None]:
    """Map what a parser raises for an output of another form to GatewayError, which repeats its beginning."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as exc:
        text = output if isinstance(output, str) else json.dumps(output)
        raise GatewayError(f"cannot read the output of {script}: {text[:OUTPUT_SHOWN]!r}") from exc


def _marker(context: WorkerContext) -> str:
    return f"{context.scripts_dir}/{COMPLETE_MARKER}"
