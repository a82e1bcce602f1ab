"""`bouchet status` and `bouchet logs`: what deployments do, and what their jobs have written."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from bouchet_cli.client.api import ApiClient, ServerSentEvent
from bouchet_cli.client.deployments import NOTHING_RUNNING
from bouchet_cli.client.errors import CommandError, NotReadyError, UnreachableError, UsageError
from bouchet_cli.client.records import StatusInfo
from bouchet_cli.context import CommandContext
from bouchet_cli.view.deployments import detail_lines, outage_line, status_lines
from bouchet_cli.view.lists import orphan_hint
from bouchet_cli.view.repro import repro, repro_lines
from bouchet_cli.view.screen import Screen, StyledLine, wrap
from bouchet_cli.view.tunnel import tunnel_line

RECONNECT_INTERVAL_S = 1.0
MAX_RECONNECTS = 30
# of a log: resuming there prints all of it
FIRST_BYTE = "0"


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet status`."""
    parser.add_argument("name", nargs="?", metavar="NAME",
                        help="show one deployment in detail, with a startup time breakdown")  # fmt: skip
    parser.add_argument("--repro", action="store_true", help="with NAME: show all that is needed to run it again")
    parser.add_argument("--all", action="store_true", help="include deployments that have ended")
    parser.add_argument("--watch", action="store_true", help="show it again at each change, until q or Ctrl-C")


def run_status(options: argparse.Namespace, context: CommandContext) -> None:
    """Show deployments and the tunnel, or one deployment."""
    if options.watch:
        if options.name or options.all or options.repro:
            raise UsageError("--watch shows all live deployments; leave out NAME, --all and --repro")
        from .top import watch_status  # loaded only when it is used

        watch_status(options, context)
    elif options.repro:
        _show_repro(options, context)
    elif options.name:
        _show_one(options, context)
    else:
        _show_all(options, context)


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet logs`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="id or name (default: the newest)")
    parser.add_argument("-f", "--follow", action="store_true", help="continue until the deployment ends")
    parser.add_argument("--all", action="store_true", help="begin at the first line (default: the last 16 KiB)")


def run_logs(options: argparse.Namespace, context: CommandContext) -> None:
    """Print the end of the log, or all of it; with --follow continue until the deployment ends."""
    api, screen = context.api, context.screen
    name = api.find_deployment(options.name).id if options.name else _newest(api)
    is_first = True
    for message in _log_events(api, name, options.follow, FIRST_BYTE if options.all else None):
        if is_first and not options.all and _begins_late(message):
            screen.note(f"the end of the log; all of it: `bouchet logs {options.name or name} --all`", "dim")
        is_first = False
        if message.event == "problem":
            if not options.follow:
                raise CommandError(message.data["detail"], message.data["kind"])
            screen.warn(message.data["detail"])
        elif options.json:
            screen.show_json_lines([message.data])
        else:
            screen.show(message.data["line"])


def _show_all(options: argparse.Namespace, context: CommandContext) -> None:
    api, screen = context.api, context.screen
    status = api.status()
    shown = api.deployments(live=False) if options.all else [*status.deployments, *status.ended]
    if options.json:
        deployments = {"deployments": [deployment.raw for deployment in shown]} if options.all else {}
        screen.show_json({**status.raw, **deployments})
        return
    now = datetime.now(UTC)
    if not status.deployments and not options.all:
        screen.show(NOTHING_RUNNING)
    if shown:
        screen.show(*status_lines(shown, screen.out.width, now))
    if status.ended_more and not options.all:
        screen.show(StyledLine(f"and {status.ended_more} more that ended: `bouchet status --all`", "dim"))
    _show_connection(status, screen, now)


def _show_connection(status: StatusInfo, screen: Screen, now: datetime) -> None:
    if status.cluster_outage:
        screen.show(outage_line(status.cluster_outage, now))
    if status.tunnel:
        screen.show(tunnel_line(status.tunnel, now))
    else:
        screen.show(f"tunnel: unknown ({status.tunnel_error or 'the gateway does not answer'})")
    if hint := orphan_hint(status.orphans):
        screen.show(hint)
    if problem := status.raw.get("ledger_problem"):
        _show_problem(screen, f"ledger: {problem}; entries wait in Redis")
    if problem := status.raw.get("notifications_problem"):
        _show_problem(screen, f"notifications: {problem}")


def _show_problem(screen: Screen, text: str) -> None:
    screen.show(*(StyledLine(part, "yellow") for part in wrap(text, screen.out.width)))


def _show_one(options: argparse.Namespace, context: CommandContext) -> None:
    screen = context.screen
    status = context.api.status()
    live = next((deployment for deployment in status.deployments if deployment.matches(options.name)), None)
    deployment = live or context.api.find_deployment(options.name)
    if options.json:
        screen.show_json(deployment.raw)
        return
    now = datetime.now(UTC)
    screen.show(*detail_lines(deployment, screen.out.width, now))
    if status.cluster_outage:
        screen.show(outage_line(status.cluster_outage, now))


def _show_repro(options: argparse.Namespace, context: CommandContext) -> None:
    if not options.name:
        raise UsageError("--repro needs the name or id of a deployment; see `bouchet status --all`")
    found = repro(context.api.find_deployment(options.name))
    if options.json:
        context.screen.show_json(found)
    else:
        context.screen.show(*repro_lines(found, datetime.now(UTC)))


def _begins_late(message: ServerSentEvent) -> bool:
    """Return whether this first line is not the log's. An event's id is the offset behind its line."""
    if message.event == "problem" or not message.id.isdecimal():
        return False
    # the line's end is one byte or two
    return int(message.id) > len(str(message.data["line"]).encode()) + 2


def _log_events(api: ApiClient, name: str, follow: bool, after: str | None = None) -> Iterator[ServerSentEvent]:
    """Yield the events; a followed stream resumes after its last line when the connection breaks."""
    failures = 0
    while True:
        try:
            for message in api.log(name, follow=follow, after=after):
                after, failures = message.id or after, 0
                yield message
            return
        except UnreachableError as exc:
            failures += 1
            if not follow or after is None or exc.kind or failures > MAX_RECONNECTS:
                raise
            time.sleep(RECONNECT_INTERVAL_S)


def _newest(api: ApiClient) -> str:
    newest = api.deployments(live=True, limit=1) or api.deployments(live=False, limit=1)
    if not newest:
        raise NotReadyError("there are no deployments yet; start one with `bouchet launch`")
    return newest[0].id
