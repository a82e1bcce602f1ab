"""Which models lie on the cluster: `python3 list_models.py ROOT MODELS_DIR` prints JSON. Reads names and sizes only.

{"models": {"org/name": {"state": "ready" | "partial", "bytes", "total_bytes", "revision", "last_used"}},
 "free_bytes": of the models' disk}. Times are seconds since 1970. Standard library and Python 3.6 only.
"""

import json
import os
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

from model_folder import (
    PARTIAL,
    REVISION,
    folder_bytes,
    kept_bytes,
    manifest_path,
    newest_snapshot,
    partial_folder,
    plan_path,
    read_json,
    read_note,
    size_of,
    whole_folder,
)

Found = Dict[str, Any]


def look(root: str, models_dir: str) -> Found:
    """Everything that lies there."""
    models = {}  # type: Dict[str, Found]
    for hub in (models_dir, os.path.join(models_dir, "hub")):
        for name in listed(hub):
            found = re.match(r"^models--(.+?)--(.+)$", name)
            snapshot = newest_snapshot(os.path.join(hub, name)) if found else None
            if found and snapshot:
                models["%s/%s" % found.groups()] = of_snapshot(os.path.join(hub, name), snapshot)
    for model in plain_models(models_dir):
        found_there = of_folder(models_dir, model)
        if found_there:
            models[model] = found_there
    for model in models:
        models[model]["last_used"] = last_used(root, model)
    try:
        known = os.statvfs(models_dir)
        free = known.f_bavail * known.f_frsize  # type: Optional[int]
    except OSError:
        free = None
    return {"models": models, "free_bytes": free}


def listed(folder: str) -> List[str]:
    """Names in a folder, none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def plain_models(models_dir: str) -> Iterator[str]:
    """`org/name` of every folder two levels down, half-fetched ones too."""
    for org in listed(models_dir):
        if org.startswith((".", "models--")) or org == "hub":
            continue
        names = [PARTIAL.sub(r"\1", name) for name in listed(os.path.join(models_dir, org))]
        for name in sorted(set(names)):
            if not name.startswith("."):
                yield "%s/%s" % (org, name)


def of_folder(models_dir: str, model: str) -> Optional[Found]:
    """A plain folder: ready when its manifest's files are all there, or when it has a config.json and no manifest."""
    whole, partial = whole_folder(models_dir, model), partial_folder(models_dir, model)
    manifest, plan = read_json(manifest_path(whole)), read_json(plan_path(partial))
    if manifest:
        have, total = there(whole, manifest["files"])
        state = "ready" if have == total else "partial"
        return {"state": state, "bytes": have, "total_bytes": total, "revision": manifest.get("revision")}
    if size_of(os.path.join(whole, "config.json")):
        size, _ = folder_bytes(whole)
        revision = read_note(os.path.join(whole, REVISION))
        return {"state": "ready", "bytes": size, "total_bytes": size, "revision": revision}
    if plan:
        have, total = kept_bytes(partial, plan["files"]), sum(e["size"] for e in plan["files"])
        return {"state": "partial", "bytes": have, "total_bytes": total, "revision": plan.get("revision")}
    return None


def there(folder: str, entries: List[Found]) -> Tuple[int, int]:
    """Bytes of the files that are there and as long as they should be, and of all."""
    whole = [e["size"] for e in entries if size_of(os.path.join(folder, e["path"])) == e["size"]]
    return sum(whole), sum(e["size"] for e in entries)


def of_snapshot(repository: str, snapshot: str) -> Found:
    """A model in a hub cache, whose files are links to its blobs."""
    size = sum(size_of(os.path.join(place, name)) for place, _, names in os.walk(snapshot) for name in names)
    coming = [name for name in listed(os.path.join(repository, "blobs")) if name.endswith(".incomplete")]
    state, total = ("partial", None) if coming else ("ready", size)
    return {"state": state, "bytes": size, "total_bytes": total, "revision": os.path.basename(snapshot)}


def last_used(root: str, model: str) -> Optional[int]:
    """When a job last served it: jobs leave a mark."""
    try:
        return int(os.stat(os.path.join(root, "cache", "used", model.replace("/", "--"))).st_mtime)
    except OSError:
        return None


if __name__ == "__main__":
    json.dump(look(*(os.path.expanduser(word) for word in sys.argv[1:3])), sys.stdout)
