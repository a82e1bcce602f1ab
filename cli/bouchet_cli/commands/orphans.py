"""`bouchet orphans`: jobs on the cluster without a record; takes them over or ends them."""

from __future__ import annotations

import argparse

from bouchet_cli.client.errors import UsageError
from bouchet_cli.tools import Tools
from bouchet_cli.view.orphans import Orphan, orphan_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet orphans`."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--adopt", type=_slurm_id, metavar="ID", help="make this Slurm job a deployment of yours here")
    one.add_argument("--cancel", type=_slurm_id, metavar="ID", help="end this Slurm job")
    one.add_argument("--all", action="store_true", help="also jobs that another installation launched")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Lists, after a look at the cluster; or acts on one job."""
    api, screen = tools.api, tools.screen
    if options.adopt is not None:
        made = api.adopt(options.adopt)
        if options.json:
            screen.show_json(made.raw)
        else:
            screen.show(f"job {options.adopt} is deployment {made.id} now, {made.alias}; `bouchet status` shows it")
    elif options.cancel is not None:
        ended = api.cancel_orphan(options.cancel)
        if options.json:
            screen.show_json(ended)
        else:
            screen.show(f"job {options.cancel} ({ended['name']}) is being ended")
    else:
        _list(options, tools)


def _list(options: argparse.Namespace, tools: Tools) -> None:
    screen = tools.screen
    raw = tools.api.orphans(fresh=True)
    if options.json:
        screen.show_json({"orphans": raw})
        return
    found = [Orphan.from_json(one) for one in raw]
    shown = [orphan for orphan in found if options.all or orphan.owner != "another"]
    hidden = len(found) - len(shown)
    if shown:
        screen.show(*orphan_lines(shown, screen.out.width))
        screen.say("`bouchet orphans --adopt ID` makes a deployment of one, `--cancel ID` ends it")
    else:
        screen.show("no jobs without a record")
    if hidden:
        screen.say(f"{hidden} of another installation not shown; `bouchet orphans --all` does")


def _slurm_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:13]) <= 10**12:
        raise UsageError(f"{text!r} is no Slurm job id; `bouchet orphans` lists them")
    return int(text)
