"""Uploading the job scripts, and running one of them on the login node: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bouchet_core.config.job_scripts import COMPLETE_MARKER
from bouchet_core.errors import GatewayError, RemoteFileMissingError

from .context import WorkerContext

# a program on the login node reads folders of models or images, and hashes files only in its cache
SCRIPT_TIMEOUT_S = 60.0
# characters of an unreadable output that an error repeats
OUTPUT_SHOWN = 200
LOGS_README = b"Logs of bouchet-llm's jobs. Those of ended jobs may be deleted.\n"


def stage_scripts(context: WorkerContext) -> None:
    """Upload the job scripts, unless this version of them is on the cluster already."""
    if scripts_staged(context):
        return
    scripts = {f"{context.scripts_dir}/{name}": content for name, content in context.scripts.files.items()}
    context.gateway.put_all({**scripts, context.paths.logs_readme(): LOGS_README})
    context.gateway.put(_marker(context), b"")


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
