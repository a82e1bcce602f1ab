"""`bouchet download`: fetches a model to the cluster, and watches."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.records import Download
from bouchet_cli.tools import Tools
from bouchet_cli.view.downloads import bar_of, downloads_lines, summary_of
from bouchet_cli.view.models import in_bytes
from bouchet_cli.view.progress import shown, until_over
from bouchet_cli.view.screen import Screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet download`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of the catalog or full id (default: list them)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True, help="watch until it is there")
    parser.add_argument("--cancel", action="store_true", help="end it; what has come is kept")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Asks for the download; one of the same model that is under way is watched instead."""
    api, screen = tools.api, tools.screen
    if options.model is None:
        _list(options, api, screen)
        return
    if options.cancel:
        _cancel(options, api, screen)
        return
    download = api.download(options.model, options.revision)
    if options.wait:
        download = _watched(download, api, screen)
    if options.json:
        screen.show_json(download.raw)
    elif not options.wait:
        screen.show(f"{download.model} is asked for (id {download.id}); `bouchet download` shows how it goes")
    if download.over and download.state != "done":
        raise CommandError(f"{download.model} {download.state}: {download.reason}")
    if download.over and not options.json:
        size = f" ({in_bytes(download.bytes)})" if download.bytes else ""
        screen.show(f"{download.model} is on the cluster{size}: {download.reason}")


def _watched(download: Download, api: Api, screen: Screen) -> Download:
    """The download when it is over. Ctrl-C leaves it running."""
    try:
        with shown(screen, summary_of, bar_of) as show:
            return until_over(download, partial(api.download_record, download.id), show)
    except KeyboardInterrupt:
        model = download.model
        screen.say(f"{model} goes on without you; `bouchet download {model}` watches again, with --cancel it ends")
        raise


def _cancel(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    if options.revision is not None:
        raise UsageError("--cancel ends the download of a model, whatever its revision; leave --revision out")
    ended = api.cancel_download(options.model)
    if options.json:
        screen.show_json(ended.raw)
    else:
        screen.show(
            f"{ended.model} {'had ended already' if ended.over else 'is being cancelled; what has come is kept'}"
        )


def _list(options: argparse.Namespace, api: Api, screen: Screen) -> None:
    if options.cancel or options.revision:
        raise UsageError("name a model")
    found = api.downloads()
    if options.json:
        screen.show_json({"downloads": [download.raw for download in found]})
    elif found:
        screen.show(*downloads_lines(found, screen.out.width, datetime.now(UTC)))
    else:
        screen.show("no downloads yet; `bouchet download MODEL` fetches one, `bouchet models` shows what there is")
