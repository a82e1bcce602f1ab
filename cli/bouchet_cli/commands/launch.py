"""`bouchet launch`, `bouchet attach` and `bouchet cancel`: start deployments, serve others' servers, and stop."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.deployments import NOTHING_RUNNING, DeploymentInfo
from bouchet_cli.client.errors import NotReadyError, UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.integrations.claude_code import start_claude
from bouchet_cli.integrations.claude_env import TIERS
from bouchet_cli.spans import parse_minutes, parse_tokens, parse_walltime
from bouchet_cli.view.preview import preview_lines
from bouchet_cli.view.progress import announce_nothing, wait_until_ready
from bouchet_cli.view.screen import Screen

from .keep import add_policy_arguments, policy_request

# of a file with a key, which is one line
KEY_FILE_BYTES = 1024
# options with the same name as their field of the request
SAME_NAME = (
    *("name", "gpus", "nodes", "time", "partition", "quant", "kv_cache_dtype", "max_len"),
    *("account", "qos", "constraint", "like"),
)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet launch`."""
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="name or id in the catalog")
    parser.add_argument("--model", metavar="MODEL", help="same as MODEL (default: the catalog's default model)")
    parser.add_argument("--name", help="name that clients use (default: from the catalog)")
    parser.add_argument("--gpus", type=int, metavar="N", help="number of GPUs (default: from the catalog)")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of nodes; the GPUs are spread evenly over them")
    parser.add_argument("--time", type=parse_walltime, metavar="TIME",
                        help="walltime: 6h, 90m, 2d, or as Slurm writes it, 2-00:00:00")  # fmt: skip
    parser.add_argument("--partition", metavar="P",
                        help="partition; auto: the one that starts first (default: by GPUs and walltime)")  # fmt: skip
    parser.add_argument("--quant", choices=("fp8", "none"), help="fp8: quantize the weights while loading")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), help="fp8: halve the memory of the KV cache")
    parser.add_argument("--max-len", type=parse_tokens, metavar="TOKENS",
                        help="context window: 40960 or 64k (default: from the catalog)")  # fmt: skip
    parser.add_argument("--account", help="Slurm account to charge")
    parser.add_argument("--qos", help="Slurm quality of service")
    parser.add_argument("--constraint", help="node features, as sbatch takes them")
    parser.add_argument("--as", dest="serve_as", type=_tiers, default=(), metavar="TIERS",
                        help="Claude tiers that this model serves: opus,sonnet,haiku")  # fmt: skip
    parser.add_argument("--idle-timeout", type=parse_minutes, metavar="MINUTES",
                        help="stop after this time without requests: minutes, or 2h; 0: never")  # fmt: skip
    parser.add_argument("--like", metavar="ID",
                        help="relaunch with the image, revision, arguments and resources of deployment ID")  # fmt: skip
    add_policy_arguments(parser)
    _add_waiting_arguments(parser)


def _add_waiting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about what happens until the model is ready, and then."""
    parser.add_argument("--notify", action="store_true",
                        help="send messages about it (`bouchet notify`), notify the desktop while waiting")  # fmt: skip
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                        help="show progress until the model is ready (default: on a terminal)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted; submit nothing")
    parser.add_argument("--claude", action="store_true", help="start Claude Code when the model is ready")
    parser.add_argument("--claude-on-terminal", action="store_true", help=argparse.SUPPRESS)


def run_launch(options: argparse.Namespace, context: CommandContext) -> None:
    """Launch a model, then start Claude Code if that is requested; or show a preview."""
    api, screen = context.api, context.screen
    if options.dry_run:
        _show_preview(options, api, screen)
        return
    claude = options.claude or (options.claude_on_terminal and screen.interactive and options.wait is not False)
    deployment = _launch(options, context, wait=claude)
    if claude:
        start_claude(deployment, options.claude_arguments, context)


def add_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet attach`."""
    parser.add_argument("name", metavar="NAME", help="name that clients use")
    parser.add_argument("--node", required=True, metavar="NODE", help="the node, as `sinfo -N` prints it")
    parser.add_argument("--port", required=True, type=int, metavar="PORT", help="where the server listens there")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="file with the server's API key, if it wants one")
    parser.add_argument("--model", metavar="MODEL", help="which of its models, if it serves several")
    parser.add_argument("--max-len", type=parse_tokens, metavar="TOKENS",
                        help="context window, if the server does not report it")  # fmt: skip


def run_attach(options: argparse.Namespace, context: CommandContext) -> None:
    """Attach a server that runs without a job of ours."""
    api, screen = context.api, context.screen
    request: dict[str, Any] = {"name": options.name, "node": options.node, "port": options.port}
    request |= {"model": options.model, "max_len": options.max_len}
    request["key"] = read_key(options.key_file, screen) if options.key_file is not None else None
    attached = api.attach({field: value for field, value in request.items() if value is not None})
    if options.json:
        screen.show_json(attached.raw)
        return
    window = f", window of {attached.job.window:,} tokens" if attached.job.window else ", window unknown (--max-len)"
    screen.show(f"{attached.alias} serves {attached.model} of {options.node}:{options.port}{window}")
    screen.note(f"it is attached, not ours: `bouchet cancel {attached.alias}` only detaches it, and ends nothing there")


def read_key(path: Path, screen: Screen) -> str:
    """Return the key in a file, and warn if others may read it. Raises UsageError, which never shows the content."""
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(KEY_FILE_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"--key-file {path}: {exc.strerror or exc}") from exc
    key = data.decode("ascii", "replace").strip()
    if len(data) > KEY_FILE_BYTES or not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UsageError(f"--key-file {path} does not hold a key: it is one line of visible characters without spaces")
    if mode & 0o077:
        screen.warn(f"others on this machine may read {path}; `chmod 600 {path}` keeps the key yours")
    return key


def add_cancel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet cancel`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="id or name; not needed if only one is running")
    parser.add_argument("--all", action="store_true", help="stop all deployments")


def run_cancel(options: argparse.Namespace, context: CommandContext) -> None:
    """Cancel the named deployments, or the only one that is running."""
    api, screen = context.api, context.screen
    cancelled = [api.cancel(name) for name in _to_cancel(options, api)]
    if options.json:
        screen.show_json({"deployments": [deployment.raw for deployment in cancelled]})
        return
    for deployment in cancelled:
        state = "has already ended" if deployment.phase == "ended" else "is being cancelled"
        if deployment.attached and deployment.ending == "detached":
            state = "is detached; the server itself goes on, as it is not ours"
        screen.show(f"{deployment.alias} ({deployment.id}) {state}")


def launch_request(options: argparse.Namespace, api: ApiClient) -> dict[str, Any]:
    """Return the body of POST /v1/deployments, with the catalog's default model if none is named."""
    named = {options.positional_model, options.model} - {None}
    if len(named) > 1:
        raise UsageError(f"two models are named: {' and '.join(sorted(named))}")
    model = named.pop() if named else None
    if model is None and options.like is None and (model := api.models()["default"]) is None:
        raise UsageError("the catalog has no default model; name one from `bouchet models`")
    request = {"model": model, **{field: getattr(options, field) for field in SAME_NAME}}
    request["serve_as"] = list(options.serve_as) or None
    request["idle_timeout_min"] = options.idle_timeout
    request["policy"] = policy_request(options) or None
    request["notify"] = options.notify or None
    return {field: value for field, value in request.items() if value is not None}


def _launch(options: argparse.Namespace, context: CommandContext, *, wait: bool) -> DeploymentInfo:
    """Return the deployment, ready if it was waited for. Ctrl-C stops the waiting only."""
    api, screen = context.api, context.screen
    submitted = api.launch(launch_request(options, api))
    waits = options.wait if options.wait is not None else screen.out.is_tty
    if options.notify:
        _note_targets(api, screen, waits=waits or wait)
    if not (waits or wait):
        _show(submitted, options.json, screen)
        return submitted
    screen.note(f"{submitted.alias} requested (id {submitted.id})")
    try:
        ready = wait_until_ready(api, submitted, screen, _announcer(options, context))
    except KeyboardInterrupt:
        screen.note(
            f"{submitted.alias} continues in the background; "
            f"follow it: `bouchet status`, stop it: `bouchet cancel {submitted.id}`"
        )
        raise
    _show(ready, options.json, screen)
    return ready


def _note_targets(api: ApiClient, screen: Screen, *, waits: bool) -> None:
    """Note where messages about the launch go, if they go nowhere or do not arrive."""
    report = api.notifications()
    if report["problem"]:
        screen.warn(f"messages may not arrive: {report['problem']}")
    elif not report["configured"]:
        reach = "only this desktop is notified, while this command waits" if waits else "nothing is sent"
        screen.warn(f"NOTIFY_URLS in .env names no target, so {reach}; see `bouchet notify`")


def _announcer(options: argparse.Namespace, context: CommandContext) -> Callable[[str, str], None]:
    """Return what notifies the desktop, if the launch asks for that."""
    if not options.notify:
        return announce_nothing
    from bouchet_cli.integrations.desktop import notify_desktop  # few launches need it

    return lambda title, text: notify_desktop(title, text, context.environment, context.screen)


def _show_preview(options: argparse.Namespace, api: ApiClient, screen: Screen) -> None:
    preview = api.preview(launch_request(options, api))
    if options.json:
        screen.show_json(preview)
    else:
        screen.show(*preview_lines(preview))


def _show(deployment: DeploymentInfo, as_json: bool, screen: Screen) -> None:
    if as_json:
        screen.show_json(deployment.raw)
    elif deployment.phase == "ready":
        if deployment.reason:
            screen.warn(deployment.reason)
        screen.show(f"{deployment.alias} is ready; start Claude Code with `bouchet`, or chat with `bouchet chat`")
    else:
        screen.show(f"{deployment.alias} requested (id {deployment.id}); follow it with `bouchet status`")


def _to_cancel(options: argparse.Namespace, api: ApiClient) -> list[str]:
    """Return the ids or names. Several names are all looked up first, so that a wrong one cancels nothing."""
    if options.names and options.all:
        raise UsageError("give names or --all, not both")
    names = list(dict.fromkeys(options.names))
    if len(names) > 1:
        return list(dict.fromkeys(api.deployment(name).id for name in names))
    if names:
        return [api.find_deployment(names[0]).id]
    live = api.deployments(live=True)
    if not live:
        raise NotReadyError(NOTHING_RUNNING)
    if len(live) > 1 and not options.all:
        raise UsageError(f"several deployments are running: {', '.join(d.alias for d in live)}; name one, or use --all")
    return [deployment.id for deployment in live]


def _tiers(text: str) -> tuple[str, ...]:
    tiers = tuple(part.strip() for part in text.split(",") if part.strip())
    if wrong := [tier for tier in tiers if tier not in TIERS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(TIERS)}")
    return tiers
