"""Lists the models on the cluster: `python3 list_models.py ROOT MODELS_DIR [SHARED_DIR...]` prints JSON.

Reads names and sizes only. A complete model in models_dir comes before one in a shared directory.

{"models": {"org/name": {"state": "ready" | "partial", "bytes", "total_bytes", "revision", "last_used", "shared"}},
 "free_bytes": of the models' disk}. Times are seconds since 1970. Python 3.6, standard library.
"""

import json
import os
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

from job_files import read_json, read_text
from model_folder import (
    PARTIAL,
    REVISION,
    downloaded_bytes,
    folder_bytes,
    manifest_path,
    model_path,
    newest_snapshot,
    partial_path,
    plan_path,
    size_of,
)

ModelOnDisk = Dict[str, Any]


def list_models(root: str, models_dir: str, *shared: str) -> Dict[str, Any]:
    """Return all models in models_dir and in the shared directories."""
    models = models_in(models_dir)
    for folder in shared:
        for model, row in models_in(folder).items():
            if row["state"] == "ready" and models.get(model, {}).get("state") != "ready":
                models[model] = dict(row, shared=folder)
    for model in models:
        models[model]["last_used"] = last_used(root, model)
    try:
        known = os.statvfs(models_dir)
        free: Optional[int] = known.f_bavail * known.f_frsize
    except OSError:
        free = None
    return {"models": models, "free_bytes": free}


def models_in(models_dir: str) -> Dict[str, ModelOnDisk]:
    """Return all models of one directory, in plain folders and hub caches."""
    models: Dict[str, ModelOnDisk] = {}
    for hub in (models_dir, os.path.join(models_dir, "hub")):
        for name in list_names(hub):
            found = re.match(r"^models--(.+?)--(.+)$", name)
            snapshot = newest_snapshot(os.path.join(hub, name)) if found else None
            if found and snapshot:
                models["%s/%s" % found.groups()] = describe_snapshot(os.path.join(hub, name), snapshot)
    for model in plain_models(models_dir):
        plain = describe_folder(models_dir, model)
        if plain:
            models[model] = plain
    return models


def list_names(folder: str) -> List[str]:
    """Return the names in a folder, none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def plain_models(models_dir: str) -> Iterator[str]:
    """Yield `org/name` of every folder two levels down, partly downloaded ones too."""
    for org in list_names(models_dir):
        if org.startswith((".", "models--")) or org == "hub":
            continue
        names = [PARTIAL.sub(r"\1", name) for name in list_names(os.path.join(models_dir, org))]
        for name in sorted(set(names)):
            if not name.startswith("."):
                yield "%s/%s" % (org, name)


def describe_folder(models_dir: str, model: str) -> Optional[ModelOnDisk]:
    """Return the state of a plain folder; None where it is no model.

    It is ready when all files of its manifest exist, or when it has a config.json and no manifest.
    """
    complete, partial = model_path(models_dir, model), partial_path(models_dir, model)
    manifest, plan = read_json(manifest_path(complete)), read_json(plan_path(partial))
    if manifest:
        have, total = count_bytes(complete, manifest["files"])
        state = "ready" if have == total else "partial"
        return {"state": state, "bytes": have, "total_bytes": total, "revision": manifest.get("revision")}
    if size_of(os.path.join(complete, "config.json")):
        size = folder_bytes(complete)
        revision = read_text(os.path.join(complete, REVISION))
        return {"state": "ready", "bytes": size, "total_bytes": size, "revision": revision}
    if plan:
        have, total = downloaded_bytes(partial, plan["files"]), sum(e["size"] for e in plan["files"])
        return {"state": "partial", "bytes": have, "total_bytes": total, "revision": plan.get("revision")}
    return None


def count_bytes(folder: str, entries: List[Dict[str, Any]]) -> Tuple[int, int]:
    """Return the bytes of the files that have their full size, and of all files."""
    complete = [e["size"] for e in entries if size_of(os.path.join(folder, e["path"])) == e["size"]]
    return sum(complete), sum(e["size"] for e in entries)


def describe_snapshot(repository: str, snapshot: str) -> ModelOnDisk:
    """Return the state of a model in a hub cache, whose files are links to its blobs."""
    size = folder_bytes(snapshot)
    incomplete = [name for name in list_names(os.path.join(repository, "blobs")) if name.endswith(".incomplete")]
    state, total = ("partial", None) if incomplete else ("ready", size)
    return {"state": state, "bytes": size, "total_bytes": total, "revision": os.path.basename(snapshot)}


def last_used(root: str, model: str) -> Optional[int]:
    """Return when a job last served the model, by the file that jobs touch."""
    try:
        return int(os.stat(os.path.join(root, "cache", "used", model.replace("/", "--"))).st_mtime)
    except OSError:
        return None


if __name__ == "__main__":
    json.dump(list_models(*(os.path.expanduser(path) for path in sys.argv[1:])), sys.stdout)
