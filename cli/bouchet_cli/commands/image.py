"""`bouchet image`: the container images that models are served with."""

from __future__ import annotations

import argparse
from functools import partial

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.records import ImageJob
from bouchet_cli.tools import Tools
from bouchet_cli.view.images import bar_of, images_lines, summary_of
from bouchet_cli.view.models import in_bytes
from bouchet_cli.view.progress import shown, until_over
from bouchet_cli.view.screen import Screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`bouchet image build|list|verify|remove`; list is what a bare `image` does."""
    actions = parser.add_subparsers(dest="action", metavar="build|list|verify|remove", parser_class=type(parser))
    build = actions.add_parser("build", help="build a pinned image in a Slurm job on the cluster", allow_abbrev=False)
    build.add_argument("pin", metavar="PIN", help="a folder of apptainer/pins")
    build.add_argument(
        "--from", dest="source", metavar="DIR", help="where nodes have no network: folder on the cluster"
    )
    build.add_argument("--rebuild", action="store_true", help="although the one there was made from the same recipe")
    build.add_argument("--force", action="store_true", help="although a live deployment serves from the one there")
    listed = actions.add_parser("list", help="pins, and which images are on the cluster", allow_abbrev=False)
    verify = actions.add_parser("verify", help="hash an image again and compare with its records", allow_abbrev=False)
    verify.add_argument("pin", metavar="PIN", help="an image on the cluster")
    for action in (build, verify):
        action.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True, help="watch until its end")
        action.add_argument("--cancel", action="store_true", help="end what is under way for this pin")
    remove = actions.add_parser("remove", help="remove an image from the cluster", allow_abbrev=False)
    remove.add_argument("pin", metavar="PIN", help="an image on the cluster")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument("--force", action="store_true", help="although a live deployment serves from it")
    for action in (build, listed, verify, remove):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for programs")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Does what the action says."""
    match options.action:
        case "build" | "verify":
            _job(options, tools)
        case "remove":
            _remove(options, tools)
        case _:
            _list(options, tools)


def _job(options: argparse.Namespace, tools: Tools) -> None:
    api, screen = tools.api, tools.screen
    if options.cancel:
        _cancel(options, tools)
        return
    wanted = {"pin": options.pin, "action": options.action}
    if options.action == "build":
        asked = {"source": options.source, "rebuild": options.rebuild, "force": options.force}
        wanted |= {name: value for name, value in asked.items() if value}
    job = api.image_job(wanted)
    if job.action != options.action:
        raise CommandError(
            f"{job.pin}: a {job.action} is under way (id {job.id}); wait for it, or end it with --cancel"
        )
    if options.wait:
        job = _watched(job, api, screen)
    if options.json:
        screen.show_json(job.raw)
    elif not options.wait:
        screen.show(f"the {job.action} of {job.pin} is asked for (id {job.id}); the same command watches it")
    if job.over and job.state != "done":
        log = f" (log: {job.log})" if job.log and job.state == "failed" else ""
        raise CommandError(f"{job.pin} {job.state}: {job.reason}{log}")
    if job.over and not options.json:
        size = f" ({in_bytes(job.bytes)})" if job.bytes else ""
        screen.show(f"{job.pin}{size}: {job.reason}")


def _watched(job: ImageJob, api: Api, screen: Screen) -> ImageJob:
    """The job when it is over. Ctrl-C leaves it running."""
    try:
        with shown(screen, summary_of, bar_of, elapsed=True) as show:
            return until_over(job, partial(api.image_record, job.id), show)
    except KeyboardInterrupt:
        again = f"bouchet image {job.action} {job.pin}"
        screen.say(f"it goes on without you; `{again}` watches again, with --cancel it ends")
        raise


def _cancel(options: argparse.Namespace, tools: Tools) -> None:
    ended = tools.api.cancel_image(options.pin)
    if options.json:
        tools.screen.show_json(ended.raw)
    else:
        tools.screen.show(
            f"the {ended.action} of {ended.pin} {'had ended already' if ended.over else 'is being ended'}"
        )


def _remove(options: argparse.Namespace, tools: Tools) -> None:
    if not options.yes and not _agreed(options.pin, tools.screen):
        raise CommandError("nothing was removed")
    gone = tools.api.remove_image(options.pin, force=options.force)
    if options.json:
        tools.screen.show_json(gone)
    else:
        tools.screen.show(f"the image {gone['pin']} is gone from the cluster, {in_bytes(gone['bytes'])} are free again")


def _agreed(pin: str, screen: Screen) -> bool:
    if not screen.interactive:
        raise UsageError("nobody is there to ask; say --yes to remove the image all the same")
    screen.say(f"Remove the image {pin} from the cluster? [y/N] ", end="")
    return input().strip().lower() in ("y", "yes")


def _list(options: argparse.Namespace, tools: Tools) -> None:
    screen = tools.screen
    answer = tools.api.images()
    if options.json:
        screen.show_json(answer)
        return
    screen.show(*images_lines(answer["images"], screen.out.width))
    if answer.get("free_bytes") is not None:
        screen.show("", f"{in_bytes(answer['free_bytes'])} are free on the images' disk")
    if answer.get("problem"):
        screen.say(f"what lies on the cluster is unknown: {answer['problem']}")
