"""`bouchet tasks`: what the worker could not do, after all its tries."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.client.records import Json
from bouchet_cli.tools import Tools
from bouchet_cli.view.tables import duration, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet tasks`."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--retry", metavar="ID", help="try this one once more, now")
    one.add_argument("--drop", metavar="ID", help="forget this one; its deployment goes on until it is cancelled")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Lists, or acts on one."""
    api, screen = tools.api, tools.screen
    if options.retry or options.drop:
        done = api.retry_task(options.retry) if options.retry else api.drop_task(options.drop)
        if options.json:
            screen.show_json(done)
        else:
            screen.show(f"{done['id']} {'is tried again' if options.retry else 'is forgotten'}")
        return
    failed = api.failed_tasks()
    if options.json:
        screen.show_json({"tasks": failed})
    elif failed:
        now = datetime.now(UTC)
        rows = [(one["id"], one["task"], one["deployment"], _age(one, now)) for one in failed]
        notes = [one["reason"] for one in failed]
        screen.show(*table(("ID", "ERRAND", "DEPLOYMENT", "FAILED"), rows, screen.out.width, notes=notes))
    else:
        screen.show("no task has failed")


def _age(failed: Json, now: datetime) -> str:
    if not failed.get("failed_at"):
        return "-"
    moment = datetime.fromisoformat(failed["failed_at"])
    return f"{duration((now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).total_seconds())} ago"
