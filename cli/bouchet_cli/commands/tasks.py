"""`bouchet tasks`, `bouchet orphans` and `bouchet notify`: what goes on in the background.

Failed tasks, Slurm jobs that no deployment lists, and messages to people.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.view.lists import OrphanInfo, orphan_lines, task_lines
from bouchet_cli.view.notifications import NOT_CONFIGURED, failure_text, notification_lines, test_lines
from bouchet_cli.view.screen import wrap


def add_tasks_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet tasks`."""
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--retry", metavar="ID", help="retry this task now")
    action.add_argument(
        "--drop", metavar="ID", help="discard this task; its deployment continues until it is cancelled"
    )


def run_tasks(options: argparse.Namespace, context: CommandContext) -> None:
    """List failed tasks, or retry or discard one."""
    api, screen = context.api, context.screen
    if options.retry or options.drop:
        task = api.retry_task(options.retry) if options.retry else api.drop_task(options.drop)
        if options.json:
            screen.show_json(task)
        else:
            screen.show(f"{task['id']} {'is being retried' if options.retry else 'discarded'}")
        return
    failed = api.failed_tasks()
    if options.json:
        screen.show_json({"tasks": failed})
    elif failed:
        screen.show(*task_lines(failed, screen.out.width, datetime.now(UTC)))
    else:
        screen.show("no failed background tasks")


def add_orphans_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet orphans`."""
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--adopt", type=_slurm_id, metavar="ID", help="create a deployment for this Slurm job")
    action.add_argument("--cancel", type=_slurm_id, metavar="ID", help="cancel this Slurm job")
    action.add_argument("--all", action="store_true", help="include jobs of other installations")


def run_orphans(options: argparse.Namespace, context: CommandContext) -> None:
    """List the orphaned jobs on the cluster, or adopt or cancel one."""
    api, screen = context.api, context.screen
    if options.adopt is not None:
        adopted = api.adopt(options.adopt)
        if options.json:
            screen.show_json(adopted.raw)
        else:
            screen.show(f"job {options.adopt} is now deployment {adopted.id} ({adopted.alias}); see `bouchet status`")
    elif options.cancel is not None:
        cancelled = api.cancel_orphan(options.cancel)
        if options.json:
            screen.show_json(cancelled)
        else:
            screen.show(f"job {options.cancel} ({cancelled['name']}) is being cancelled")
    else:
        _list_orphans(options, context)


def add_notify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet notify`."""
    parser.add_argument("action", nargs="?", choices=("test",), metavar="test",
                        help="send a message to each target now, and show what became of it")  # fmt: skip


def run_notify(options: argparse.Namespace, context: CommandContext) -> None:
    """Show where messages are sent and the last ones, or try each target."""
    api, screen = context.api, context.screen
    if options.action == "test":
        screen.note("sending a test message to each target (up to a minute)", "dim")
        result = api.test_notifications()
        deliveries = result["test"]["deliveries"]
        if options.json:
            screen.show_json(result)
        else:
            screen.show(*test_lines(deliveries, result["targets"], screen.out.width))
        if problem := failure_text(deliveries):
            raise CommandError(problem)
        return
    report = api.notifications()
    if options.json:
        screen.show_json(report)
    elif not report["configured"]:
        screen.show(*wrap(NOT_CONFIGURED, screen.out.width))
    else:
        screen.show(*notification_lines(report, screen.out.width, datetime.now(UTC)))
        if report["problem"]:
            screen.warn(report["problem"])


def _list_orphans(options: argparse.Namespace, context: CommandContext) -> None:
    screen = context.screen
    raw = context.api.orphans()
    if options.json:
        screen.show_json({"orphans": raw})
        return
    found = [OrphanInfo.from_json(one) for one in raw]
    shown = [orphan for orphan in found if options.all or orphan.owner != "another"]
    hidden = len(found) - len(shown)
    if shown:
        screen.show(*orphan_lines(shown, screen.out.width))
        screen.note("adopt one: `bouchet orphans --adopt ID`, cancel it: `bouchet orphans --cancel ID`")
    else:
        screen.show("no orphaned Slurm jobs")
    if hidden:
        screen.note(f"not shown: {hidden} of other installations; see `bouchet orphans --all`")


def _slurm_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:13]) <= 10**12:
        raise UsageError(f"{text!r} is not a Slurm job id; see `bouchet orphans`")
    return int(text)
