"""`bouchet keep`, and the options of `bouchet launch` that say how long, when and for how much a model is kept."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from bouchet_cli.client.errors import UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.view.service import policy_text

# options with the same name as their field of the policy
POLICY = ("keep", "until", "on_demand", "hours", "begin", "budget", "replicas", "exclusive_group")
LOCAL_TIME = Path("/etc/localtime")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how long, when and for how much a deployment is kept."""
    parser.add_argument("--keep", metavar="SPAN", help="renew its job for 36h, 3d or 2w, forever, or off")
    parser.add_argument("--until", metavar="TIME", help="renew its job until 18:00, fri 18:00 or a date")
    parser.add_argument("--on-demand", action=argparse.BooleanOptionalAction, default=None,
                        help="no job while no request comes; a request starts one")  # fmt: skip
    parser.add_argument("--hours", metavar="HOURS", help='weekly hours, such as "mon-fri 08:30-18:00"')
    parser.add_argument("--begin", metavar="TIME", help="no job runs before this time")
    parser.add_argument("--budget", metavar="AMOUNT", help="most that its jobs may use, such as 40h/week (GPU hours)")
    parser.add_argument("--replicas", metavar="N", help="jobs that serve at the same time, such as 2 or 1..3")
    parser.add_argument("--group", dest="exclusive_group", metavar="NAME",
                        help="share GPUs with the deployments of this group: one of them runs at a time")  # fmt: skip


def policy_request(options: argparse.Namespace) -> dict[str, Any]:
    """Return the policy that the options ask for, empty if they ask for none."""
    chosen = {field: value for field in POLICY if (value := getattr(options, field)) is not None}
    return {**chosen, "time_zone": local_time_zone()} if chosen else {}


def add_keep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet keep`."""
    parser.add_argument("name", metavar="NAME", help="id or name of the deployment")
    parser.add_argument("span", nargs="?", metavar="SPAN",
                        help="36h, 3d, forever or off; without options: resume a paused deployment")  # fmt: skip
    add_policy_arguments(parser)


def run_keep(options: argparse.Namespace, context: CommandContext) -> None:
    """Change how long a deployment is kept, or resume it."""
    api, screen = context.api, context.screen
    if options.span is not None and options.keep is not None:
        raise UsageError("give the time once: `bouchet keep NAME 2d`")
    options.keep = options.span or options.keep
    deployment = api.change_policy(api.find_deployment(options.name).id, policy_request(options))
    if options.json:
        screen.show_json(deployment.raw)
    else:
        screen.show(f"{deployment.alias}: {policy_text(deployment.raw.get('policy') or {})}")


def local_time_zone() -> str:
    """Return the IANA name of this computer's time zone; UTC where it has none."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if _ZONE.fullmatch(named):
        return named
    try:
        target = os.fspath(LOCAL_TIME.resolve(strict=True))
    except OSError:
        return "UTC"
    name = target.partition("zoneinfo/")[2]
    return name if _ZONE.fullmatch(name) else "UTC"
