"""`bouchet image`: the container images in which vLLM runs."""

from __future__ import annotations

import argparse
import subprocess
from functools import partial
from pathlib import Path

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.records import ImageJobInfo
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.context import CommandContext
from bouchet_cli.view.lists import image_job_bar, image_job_line, image_lines
from bouchet_cli.view.progress import job_display, wait_until_finished
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tables import binary_size


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `bouchet image build|list|verify|remove|stage`; a bare `image` lists."""
    actions = parser.add_subparsers(dest="action", metavar="build|list|verify|remove|stage", parser_class=type(parser))
    build = actions.add_parser("build", help="build an image in a Slurm job on the cluster", allow_abbrev=False)
    build.add_argument("pin", metavar="PIN", help="folder name in apptainer/pins")
    build.add_argument("--from", dest="source", metavar="DIR",
                       help="folder on the cluster with all downloads, for nodes without internet access")  # fmt: skip
    build.add_argument("--rebuild", action="store_true", help="build even if the image was built from this recipe")
    build.add_argument("--force", action="store_true", help="replace the image even if a live deployment uses it")
    listed = actions.add_parser("list", help="list pins, and which images are on the cluster", allow_abbrev=False)
    verify = actions.add_parser("verify", help="hash an image and compare it with its record", allow_abbrev=False)
    verify.add_argument("pin", metavar="PIN", help="image on the cluster")
    for action in (build, verify):
        action.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True,
                            help="show progress to the end")  # fmt: skip
        action.add_argument("--cancel", action="store_true", help="stop the active job of this pin")
    remove = actions.add_parser("remove", help="remove an image from the cluster", allow_abbrev=False)
    remove.add_argument("pin", metavar="PIN", help="image on the cluster")
    remove.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    remove.add_argument("--force", action="store_true", help="remove it even if a live deployment uses it")
    stage = actions.add_parser("stage", help="download on this machine what a build needs, for nodes without network",
                               allow_abbrev=False)  # fmt: skip
    stage.add_argument("pin", metavar="PIN", help="folder name in apptainer/pins")
    stage.add_argument("folder", metavar="DIR", help="folder on this machine, to be copied to the cluster")
    for action in (build, listed, verify, remove):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run_image(options: argparse.Namespace, context: CommandContext) -> None:
    """Build, verify, remove or list images."""
    match options.action:
        case "build" | "verify":
            _run_job(options, context)
        case "remove":
            _remove(options, context)
        case "stage":
            _stage(options, context)
        case _:
            _list(options, context)


def _stage(options: argparse.Namespace, context: CommandContext) -> None:
    argv = ["make", "--no-print-directory", "-C", str(PROJECT), "stage", f"PIN={options.pin}"]
    folder = Path(options.folder).expanduser().absolute()
    done = subprocess.run([*argv, f"DIR={folder}"], env=dict(context.environment), check=False)
    if done.returncode:
        raise CommandError(f"{options.pin} was not staged; the same command goes on where it stopped")


def _run_job(options: argparse.Namespace, context: CommandContext) -> None:
    api, screen = context.api, context.screen
    if options.cancel:
        _cancel(options, context)
        return
    request = {"pin": options.pin, "action": options.action}
    if options.action == "build":
        extra = {"source": options.source, "rebuild": options.rebuild, "force": options.force}
        request |= {name: value for name, value in extra.items() if value}
    job = api.image_job(request)
    if job.action != options.action:
        raise CommandError(f"{job.pin}: {job.action} in progress (id {job.id}); wait for it, or stop it with --cancel")
    if options.wait:
        job = _follow(job, api, screen)
    if options.json:
        screen.show_json(job.raw)
    elif not options.wait:
        screen.show(f"{job.action} of {job.pin} requested (id {job.id}); run the same command to follow it")
    if job.finished and job.state != "done":
        log = f" (log: {job.log})" if job.log and job.state == "failed" else ""
        raise CommandError(f"{job.action} of {job.pin} {job.state}: {job.reason}{log}")
    if job.finished and not options.json:
        size = f" ({binary_size(job.bytes)})" if job.bytes else ""
        screen.show(f"{job.pin}{size}: {job.reason}")


def _follow(job: ImageJobInfo, api: ApiClient, screen: Screen) -> ImageJobInfo:
    """Return the job when it has ended. Ctrl-C stops the waiting only."""
    try:
        with job_display(screen, image_job_line, image_job_bar, elapsed=True) as show:
            return wait_until_finished(job, partial(api.image_record, job.id), show)
    except KeyboardInterrupt:
        again = f"bouchet image {job.action} {job.pin}"
        screen.note(f"the {job.action} continues in the background; follow it: `{again}`, stop it: `{again} --cancel`")
        raise


def _cancel(options: argparse.Namespace, context: CommandContext) -> None:
    cancelled = context.api.cancel_image(options.pin)
    if options.json:
        context.screen.show_json(cancelled.raw)
    else:
        state = "has already ended" if cancelled.finished else "is being cancelled"
        context.screen.show(f"{cancelled.action} of {cancelled.pin} {state}")


def _remove(options: argparse.Namespace, context: CommandContext) -> None:
    if not options.yes and not _confirmed(options.pin, context.screen):
        raise CommandError("nothing was removed")
    removed = context.api.remove_image(options.pin, force=options.force)
    if options.json:
        context.screen.show_json(removed)
    else:
        context.screen.show(f"image {removed['pin']} removed from the cluster, {binary_size(removed['bytes'])} freed")


def _confirmed(pin: str, screen: Screen) -> bool:
    if not screen.interactive:
        raise UsageError("not a terminal, so no confirmation is possible; pass --yes to remove the image")
    answer = screen.question(f"Remove the image {pin} from the cluster? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _list(options: argparse.Namespace, context: CommandContext) -> None:
    screen = context.screen
    answer = context.api.images()
    if options.json:
        screen.show_json(answer)
        return
    screen.show(*image_lines(answer["images"], screen.out.width))
    if answer.get("free_bytes") is not None:
        screen.show("", f"{binary_size(answer['free_bytes'])} free on the disk of the images")
    if answer.get("problem"):
        screen.note(f"could not list the images on the cluster: {answer['problem']}")
