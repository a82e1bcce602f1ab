"""A cheap check of the login node, for `bouchet doctor` and for relaunching an earlier deployment. JSON in, JSON out.

in:  {"directories": [path], "images": [path], "hashes": folder, "models_dir": path, "models": [id],
      "models_dirs": [shared directory], "quota": quota_command, "weights": [[id, commit or null]]}
out: {"python", "time", "host", "directories": {path: {...}}, "images": {path: {...}}, "models": [id], "quota": text,
      "quota_left": bytes below models_dir or null, "weights": {id: {"revision", "weights"} or null}}
"""

import json
import os
import platform
import stat
import sys
import time
from typing import Any, Dict, List, Optional

from image_file import hash_note_name, recorded_hash
from job_files import read_text
from model_folder import find_in_folders
from quota import bytes_left, run_quota_command
from weights import describe_weights

QUOTA_TIMEOUT_S = 15
MAX_QUOTA_CHARACTERS = 2000


def check_directory(path: str) -> Dict[str, Any]:
    """Return whether a directory exists and is writable, and how much is free. Sizes in bytes."""
    full = os.path.expanduser(path)
    nearest = full
    while not os.path.isdir(nearest) and nearest != os.path.dirname(nearest):
        nearest = os.path.dirname(nearest)
    try:
        space = os.statvfs(nearest)
    except OSError as exc:
        return {"exists": False, "error": str(exc.strerror)}
    return {
        "exists": nearest == full,
        # where it does not exist yet: whether it could be created
        "writable": os.access(nearest, os.W_OK | os.X_OK),
        "nearest": nearest,
        "exposed": find_exposure(nearest),
        "free": space.f_bavail * space.f_frsize,
        "total": space.f_blocks * space.f_frsize,
    }


def find_exposure(path: str) -> str:
    """Return which folder on the way lets other users replace this one, empty where none does."""
    folder = os.path.realpath(path)
    while True:
        known = os.stat(folder)
        if known.st_uid not in (0, os.geteuid()):
            return "%s belongs to the user with id %d" % (folder, known.st_uid)
        # in a sticky folder everyone may create files, and only the owner may replace them
        if known.st_mode & 0o022 and (folder == os.path.realpath(path) or not known.st_mode & stat.S_ISVTX):
            return "%s is writable for %s" % (folder, "all" if known.st_mode & 0o002 else "its group")
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)


def check_image(path: str, hashes: str) -> Dict[str, Any]:
    """Return size, recorded hash, and the hash that a job computed of this very file, if one did."""
    full = os.path.expanduser(path)
    try:
        known = os.stat(full)
    except OSError as exc:
        return {"exists": False, "error": str(exc.strerror)}
    return {
        "exists": True,
        "readable": os.access(full, os.R_OK),
        "size": known.st_size,
        "recorded": recorded_hash(full),
        "computed": read_text(os.path.join(os.path.expanduser(hashes), hash_note_name(known))),
    }


def has_model(models_dir: str, model: str) -> bool:
    """Return whether there is a folder for the model, plain or in a hub cache, complete or not."""
    root = os.path.expanduser(models_dir)
    cached = "models--" + model.replace("/", "--")
    paths = [os.path.join(root, model), os.path.join(root, cached), os.path.join(root, "hub", cached)]
    return any(os.path.isdir(path) for path in paths)


def check_weights(folders: List[str], model: str, wanted: Optional[str]) -> Optional[Dict[str, Any]]:
    """Return commit and digest of the model that a job would serve; None without one. wanted: the commit to prefer."""
    try:
        folder, revision = find_in_folders(folders, model, wanted)
    except OSError:
        return None
    return {"revision": revision, "weights": describe_weights(folder)} if folder else None


def main() -> None:
    """Read the request from standard input and print the result."""
    request: Dict[str, Any] = json.load(sys.stdin)
    models_dir = request["models_dir"]
    folders = [os.path.expanduser(path) for path in (models_dir, *request.get("models_dirs", []))]
    quota = run_quota_command(request["quota"], QUOTA_TIMEOUT_S)
    result = {
        "python": platform.python_version(),
        "time": time.time(),
        "host": platform.node(),
        "directories": {path: check_directory(path) for path in request["directories"]},
        "images": {path: check_image(path, request["hashes"]) for path in request["images"]},
        "models": [model for model in request["models"] if any(has_model(one, model) for one in folders)],
        "weights": {model: check_weights(folders, model, wanted) for model, wanted in request.get("weights", [])},
        "quota": quota[:MAX_QUOTA_CHARACTERS],
        "quota_left": bytes_left(quota, models_dir),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
