"""`bouchet models`: the catalog, and models of the hub that are added to it."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bouchet_cli.client.added_models import AddedModels
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.http import Json
from bouchet_cli.client.problems import MODEL_MISSING, UNKNOWN_MODEL
from bouchet_cli.context import CommandContext
from bouchet_cli.spans import split_revision
from bouchet_cli.view.hub_models import details_lines, proposal_lines
from bouchet_cli.view.models import ModelInfo, model_lines
from bouchet_cli.view.screen import Screen
from bouchet_cli.view.tables import binary_size


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `bouchet models list|info|add|remove`; a bare `models` lists."""
    parser.add_argument("--ready", action="store_true", help="list only models that are on the cluster")
    actions = parser.add_subparsers(dest="action", metavar="list|info|add|remove", parser_class=type(parser))
    listed = actions.add_parser("list", help="list the catalog, and which models are downloaded", allow_abbrev=False)
    listed.add_argument("--ready", action="store_true", default=argparse.SUPPRESS,
                        help="list only models that are on the cluster")  # fmt: skip
    info = actions.add_parser("info", help="describe a model, of the catalog or of the hub", allow_abbrev=False)
    info.add_argument("model", metavar="MODEL", help="name in the catalog, or model id on the hub")
    add = actions.add_parser("add", help="add a model of the hub to the catalog", allow_abbrev=False)
    add.add_argument("model", metavar="ORG/NAME", help="model id on the hub, or its page's address")
    add.add_argument("--revision", metavar="R", help="branch, tag or commit to read (default: the newest)")
    remove = actions.add_parser("remove", help="remove a model's weights from the cluster, and an added entry",
                                allow_abbrev=False)  # fmt: skip
    remove.add_argument("model", metavar="MODEL", help="name in the catalog, or model id on the hub")
    remove.add_argument("--force", action="store_true", help="remove it even if a live deployment uses it")
    for action in (add, remove):
        action.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    for action in (listed, info, add, remove):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run_models(options: argparse.Namespace, context: CommandContext) -> None:
    """List, describe, add or remove models."""
    match options.action:
        case "info":
            _describe(options, context)
        case "add":
            _add(options, context)
        case "remove":
            _remove(options, context)
        case _:
            _list(options, context)


def _list(options: argparse.Namespace, context: CommandContext) -> None:
    screen = context.screen
    answer = context.api.models(refresh=True)
    if options.ready:
        answer = {**answer, "models": [raw for raw in answer["models"] if raw["disk"]["state"] == "ready"]}
    if options.json:
        screen.show_json(answer)
        return
    models = [ModelInfo.from_json(raw) for raw in answer["models"]]
    if options.ready and not models:
        screen.show("no model is on the cluster; `bouchet download MODEL` downloads one")
        return
    screen.show(*model_lines(models, answer["default"], screen.out.width, datetime.now(UTC)))
    if answer.get("free_bytes") is not None:
        screen.show("", f"{binary_size(answer['free_bytes'])} free on the disk of the models")
    if any(model.state == "unknown" for model in models):
        screen.note("STATUS is unknown until the cluster has been listed; connect with `bouchet tunnel`")


def _describe(options: argparse.Namespace, context: CommandContext) -> None:
    """Show the catalog's entry; for another model, what the hub says of it."""
    screen = context.screen
    model, revision = split_revision(options.model, None)
    try:
        found, is_known = context.api.model(model), True
    except CommandError as exc:
        if exc.kind != UNKNOWN_MODEL or "/" not in model:
            raise
        found, is_known = context.api.inspect_model(model, revision), False
    if options.json:
        screen.show_json(found)
    elif is_known:
        screen.show(*details_lines(found, datetime.now(UTC)))
    else:
        screen.show(*proposal_lines(found, screen.out.width))
        screen.note(f"it is not in the catalog; `bouchet models add {found['model']}` adds it")


def _add(options: argparse.Namespace, context: CommandContext) -> None:
    screen, api = context.screen, context.api
    added = AddedModels(context.environment)
    model, revision = split_revision(options.model, options.revision)
    found = api.inspect_model(model, revision)
    if not options.json:
        screen.show(*proposal_lines(found, screen.out.width))
    if found["known"] and not added.has(found["file"], found["model"]):
        raise CommandError(f"{found['model']} is in the catalog already; edit models.yaml to change its entry")
    if not (options.yes or options.json) and not _confirmed("Add this entry to the catalog?", screen):
        raise CommandError("nothing was added; --yes adds it without a question")
    path = added.write(found["file"], found["model"], found["block"])
    _check_visible(found["model"], path, context)
    if options.json:
        screen.show_json({**found, "path": str(path)})
        return
    screen.show(f"added to {path}, which you may edit")
    alias = found["entry"]["alias"]
    of_revision = f" --revision {revision}" if revision else ""
    screen.note(f"next: `bouchet download {found['model']}{of_revision}`, then `bouchet launch {alias}`")


def _check_visible(model: str, path: object, context: CommandContext) -> None:
    """Raise CommandError where the stack does not read this file."""
    if all(raw["id"] != model for raw in context.api.models()["models"]):
        raise CommandError(
            f"{path} is written, but the stack reads its catalog from another folder; "
            "copy the entry into the `sites` folder of the checkout where `make up` runs"
        )


def _remove(options: argparse.Namespace, context: CommandContext) -> None:
    screen, api = context.screen, context.api
    found = _find(split_revision(options.model, None)[0], context)
    model = found["id"]
    if not options.yes and not _confirmed(_removal_question(found), screen):
        raise CommandError("nothing was removed")
    removed: Json = {"model": model, "bytes": 0, "folders": []}
    try:
        removed = api.remove_model(model, force=options.force)
    except CommandError as exc:
        # an added entry can go although its weights were never downloaded
        if exc.kind != MODEL_MISSING or not found["added"]:
            raise
    entry_removed = found["added"] and AddedModels(context.environment).remove(found["file"], model)
    if options.json:
        screen.show_json({**removed, "entry_removed": entry_removed})
        return
    if removed["folders"]:
        screen.show(f"{model} removed from the cluster, {binary_size(removed['bytes'])} freed")
    if entry_removed:
        screen.show(f"{model} removed from {found['file']}")
    elif not found["added"] and found["entry"]:
        screen.note("its entry in models.yaml stays")


def _find(name: str, context: CommandContext) -> Json:
    """Return a model of the catalog; for a full id that it does not have, as far as is known."""
    try:
        return context.api.model(name)
    except CommandError as exc:
        if exc.kind != UNKNOWN_MODEL or "/" not in name:
            raise
        disk = {"state": "unknown", "bytes": None}
        return {"id": name, "disk": disk, "live": [], "added": False, "file": "", "entry": None}


def _removal_question(found: Json) -> str:
    size = f", {binary_size(found['disk']['bytes'])}" if found["disk"].get("bytes") else ""
    users = [live["name"] for live in found["live"]]
    used = f", used by {', '.join(users)}" if users else ""
    return f"Remove {found['id']}{size}{used}?"


def _confirmed(question: str, screen: Screen) -> bool:
    if not screen.interactive:
        raise UsageError("not a terminal, so no confirmation is possible; pass --yes")
    return screen.question(f"{question} [y/N] ").strip().lower() in ("y", "yes")
