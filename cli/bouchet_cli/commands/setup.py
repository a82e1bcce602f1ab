"""`bouchet setup`: the guided way from a fresh clone to the first answer on a cluster."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.guide.cluster import (
    AskModel,
    BuildImage,
    ChooseDirectory,
    ChooseModel,
    DownloadWeights,
    LaunchModel,
    OpenTunnel,
    StartServices,
    WriteSite,
)
from bouchet_cli.guide.login import CheckKeys, ChooseCluster, LogIn
from bouchet_cli.guide.step import HOST, GuideState, GuideStep
from bouchet_cli.site_probe.remote import close_connection

STEPS: tuple[type[GuideStep], ...] = (
    ChooseCluster,
    CheckKeys,
    LogIn,
    WriteSite,
    ChooseDirectory,
    StartServices,
    OpenTunnel,
    BuildImage,
    ChooseModel,
    DownloadWeights,
    LaunchModel,
    AskModel,
)
# answers that can be given on the command line
ANSWERS = ("cluster", "user", "project-dir", "model")


def add_setup_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet setup`."""
    parser.add_argument("--cluster", metavar="NAME", help="a file of sites/, or an alias of ~/.ssh/config")
    parser.add_argument("--user", metavar="NAME", help="user name on the cluster, for a new alias")
    parser.add_argument("--project-dir", metavar="DIR", help="your directory on the cluster's project storage")
    parser.add_argument("--model", metavar="MODEL", help="the first model")
    parser.add_argument("--yes", action="store_true", help="take the proposed answer wherever there is one")
    parser.add_argument("--steps", action="store_true", help="only list the steps, and how to type each by hand")


def run_setup(options: argparse.Namespace, context: CommandContext) -> None:
    """Run every step that is not done. Ctrl-C and errors keep what was done; the next run goes on from there."""
    if options.json and not options.steps:
        raise UsageError("--json goes with --steps")
    given = {name: value for name in ANSWERS if (value := getattr(options, name.replace("-", "_")))}
    # a socket's path has at most about 100 characters
    with tempfile.TemporaryDirectory(prefix="bouchet-", dir="/tmp") as folder:
        state = GuideState(context, Path(folder), given, assume_yes=options.yes)
        if options.steps:
            _list(options, state)
            return
        try:
            _run_steps(state)
        except KeyboardInterrupt:
            context.screen.note("stopped; `bouchet setup` goes on from here")
            raise
        finally:
            if state.facts is not None:
                close_connection(state.node())


def _run_steps(state: GuideState) -> None:
    screen = state.context.screen
    for number, kind in enumerate(STEPS, 1):
        step = kind()
        head = f"{number}/{len(STEPS)} {step.title}"
        if _is_done(step, state):
            screen.note(f"{head}: done", "dim")
            continue
        screen.note(head)
        screen.note(f"    by hand: {step.by_hand(state)}", "dim")
        try:
            step.run(state)
        except CommandError:
            state.end_step(failed=True)
            raise
        state.end_step(failed=False)


def _is_done(step: GuideStep, state: GuideState) -> bool:
    try:
        return step.is_done(state)
    except FileNotFoundError as exc:
        raise CommandError(f"{exc.filename} is not there") from exc


def _list(options: argparse.Namespace, state: GuideState) -> None:
    rows = [{"step": kind.title, "by_hand": _by_hand(kind(), state)} for kind in STEPS]
    if options.json:
        state.context.screen.show_json({"cluster": state.value(HOST), "steps": rows})
        return
    for number, row in enumerate(rows, 1):
        state.context.screen.show(f"{number}. {row['step']}", f"     {row['by_hand']}")


def _by_hand(step: GuideStep, state: GuideState) -> str:
    """Return the commands, also while the services that know the names are not up."""
    try:
        return step.by_hand(state)
    except CommandError:
        return {"BuildImage": "bouchet image build PIN"}.get(type(step).__name__, "bouchet doctor")
