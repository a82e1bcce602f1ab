"""`bouchet launch`: asks for a deployment and watches it until it answers."""

from __future__ import annotations

import argparse
from typing import Any

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import UsageError
from bouchet_cli.client.records import Deployment
from bouchet_cli.client.submit import submit
from bouchet_cli.integrations.claude_code import start_claude
from bouchet_cli.integrations.claude_env import TIERS
from bouchet_cli.tools import Tools
from bouchet_cli.view.launch_progress import follow
from bouchet_cli.view.preview import preview_lines
from bouchet_cli.view.screen import Screen

# option -> field of the request, where the two are not spelled alike
FIELDS = (
    *("name", "gpus", "nodes", "time", "partition", "quant", "kv_cache_dtype", "max_len"),
    *("account", "qos", "constraint"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet launch`."""
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="id or name of the catalog")
    parser.add_argument("--model", metavar="MODEL", help="the same (default: the catalog's default)")
    parser.add_argument("--name", help="serve under this name (default: the catalog's)")
    parser.add_argument("--gpus", type=int, metavar="N", help="(default: the catalog's)")
    parser.add_argument("--nodes", type=int, metavar="N", help="spread the GPUs evenly over so many nodes")
    parser.add_argument("--time", metavar="TIME", help="walltime, such as 06:00:00 or 2-00:00:00")
    parser.add_argument("--partition", metavar="P", help="auto: whichever starts first (default: by size and walltime)")
    parser.add_argument("--quant", choices=("fp8", "none"), help="fp8 quantises while loading")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), help="fp8 halves what a long window takes")
    parser.add_argument("--max-len", type=int, metavar="TOKENS", help="context window")
    parser.add_argument("--account", help="Slurm account to charge")
    parser.add_argument("--qos", help="Slurm quality of service")
    parser.add_argument("--constraint", help="node features, as sbatch takes them")
    parser.add_argument("--as", dest="serve_as", type=_tiers, default=(), metavar="TIERS",
                        help="Claude tiers it answers for: opus,sonnet,haiku")  # fmt: skip
    parser.add_argument("--idle-timeout", type=int, metavar="MINUTES", help="end after so long unused; 0 is never")
    parser.add_argument("--like", metavar="ID", help="run the very same again as this deployment, ended ones too")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                        help="watch until the model answers (default: on a terminal)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted, and submit nothing")
    parser.add_argument("--claude", action="store_true", help="start Claude Code when it is ready")
    parser.add_argument("--claude-on-terminal", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Launches, and starts Claude Code where that was asked for; or shows what a launch would be."""
    if options.dry_run:
        show_preview(options, tools.api, tools.screen)
        return
    wanted = options.claude or (options.claude_on_terminal and tools.screen.interactive and options.wait is not False)
    ready = launch(options, tools.api, tools.screen, watch=wanted)
    if wanted:
        start_claude(ready, options.claude_arguments, tools)


def launch(options: argparse.Namespace, api: Api, screen: Screen, *, watch: bool) -> Deployment:
    """The deployment: ready when it was waited for. Ctrl-C leaves it running."""
    made = submit(api, request_of(options, api))
    waits = options.wait if options.wait is not None else screen.out.is_tty
    if not (waits or watch):
        _show(made, options.json, screen)
        return made
    screen.say(f"{made.alias} requested (id {made.id})")
    try:
        ready = follow(api, made, screen)
    except KeyboardInterrupt:
        screen.say(f"{made.alias} goes on without you; `bouchet status` shows it, `bouchet cancel {made.id}` ends it")
        raise
    _show(ready, options.json, screen)
    return ready


def show_preview(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    """What would be submitted."""
    preview = api.preview(request_of(options, api))
    if options.json:
        screen.show_json(preview)
    else:
        screen.show(*preview_lines(preview))


def request_of(options: argparse.Namespace, api: Api) -> dict[str, Any]:
    """The body of POST /v1/deployments; the catalog's default model where none is named."""
    named = {options.positional_model, options.model} - {None}
    if len(named) > 1:
        raise UsageError(f"two models are named: {' and '.join(sorted(named))}")
    model = named.pop() if named else None
    if model is None and options.like is None and (model := api.models()["default"]) is None:
        raise UsageError("the catalog has no default model; name one (`bouchet models`)")
    request = {"model": model, **{field: getattr(options, field) for field in FIELDS}}
    request["like"] = options.like
    request["serve_as"] = list(options.serve_as) or None
    request["idle_timeout_min"] = options.idle_timeout
    return {field: value for field, value in request.items() if value is not None}


def _show(deployment: Deployment, as_json: bool, screen: Screen) -> None:
    if as_json:
        screen.show_json(deployment.raw)
    elif deployment.phase == "ready":
        if deployment.reason:
            screen.warn(deployment.reason)
        screen.show(f"{deployment.alias} is ready; `bouchet` starts Claude Code on it, `bouchet chat` talks with it")
    else:
        screen.show(f"{deployment.alias} requested (id {deployment.id}); `bouchet status` shows how it goes")


def _tiers(text: str) -> tuple[str, ...]:
    tiers = tuple(part.strip() for part in text.split(",") if part.strip())
    if wrong := [tier for tier in tiers if tier not in TIERS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(TIERS)}")
    return tiers
