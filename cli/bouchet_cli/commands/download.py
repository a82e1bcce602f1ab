"""`bouchet download`: models on their way to the cluster's disk."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.records import DownloadInfo
from bouchet_cli.context import CommandContext
from bouchet_cli.spans import split_revision
from bouchet_cli.view.models import download_bar, download_line, download_lines
from bouchet_cli.view.progress import job_display, wait_until_finished
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tables import binary_size


def add_download_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet download`."""
    parser.add_argument("model", nargs="?", metavar="MODEL",
                        help="name in the catalog, or model id on the hub (default: list downloads)")  # fmt: skip
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True, help="show progress to the end")
    parser.add_argument("--cancel", action="store_true", help="stop the download; partial files are kept")


def run_download(options: argparse.Namespace, context: CommandContext) -> None:
    """Download a model; if it is being downloaded already, follow that download."""
    api, screen = context.api, context.screen
    if options.model is None:
        _list(options, api, screen)
        return
    options.model, options.revision = split_revision(options.model, options.revision)
    if options.cancel:
        _cancel(options, api, screen)
        return
    download = api.download(options.model, options.revision)
    if options.wait:
        download = _follow(download, options.revision, api, screen)
    if options.json:
        screen.show_json(download.raw)
    elif not options.wait:
        screen.show(f"download of {download.model} requested (id {download.id}); follow it with `bouchet download`")
    if download.finished and download.state != "done":
        raise CommandError(f"download of {download.model} {download.state}: {download.reason}")
    if download.finished and not options.json:
        size = f" ({binary_size(download.bytes)})" if download.bytes else ""
        screen.show(f"{download.model} is on the cluster{size}: {download.reason}")
        if all(raw["id"] != download.model for raw in api.models()["models"]):
            screen.note(f"it is not in the catalog yet: `bouchet models add {download.model}`, then launch it")


def _follow(download: DownloadInfo, revision: str | None, api: ApiClient, screen: Screen) -> DownloadInfo:
    """Return the download when it has ended. Ctrl-C stops the waiting only."""
    try:
        with job_display(screen, download_line, download_bar) as show:
            return wait_until_finished(download, partial(api.download_record, download.id), show)
    except KeyboardInterrupt:
        again = f"bouchet download {download.model}"
        follow = f"{again} --revision {revision}" if revision else again
        screen.note(f"the download continues in the background; follow it: `{follow}`, stop it: `{again} --cancel`")
        raise


def _cancel(options: argparse.Namespace, api: ApiClient, screen: Screen) -> None:
    if options.revision is not None:
        raise UsageError("--cancel stops the download of any revision; leave out --revision")
    cancelled = api.cancel_download(options.model)
    if options.json:
        screen.show_json(cancelled.raw)
    else:
        state = "has already ended" if cancelled.finished else "is being cancelled; partial files are kept"
        screen.show(f"download of {cancelled.model} {state}")


def _list(options: argparse.Namespace, api: ApiClient, screen: Screen) -> None:
    if options.cancel or options.revision:
        raise UsageError("name the model")
    downloads = api.downloads()
    if options.json:
        screen.show_json({"downloads": [download.raw for download in downloads]})
    elif downloads:
        newest = {download.model: download for download in reversed(downloads)}
        shown = [download for download in downloads if newest[download.model] is download]
        screen.show(*download_lines(shown, screen.out.width, datetime.now(UTC)))
    else:
        screen.show("no downloads yet; start one with `bouchet download MODEL`, list models with `bouchet models`")
