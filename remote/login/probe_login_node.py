"""A cheap look round the login node, for `bouchet doctor` and for a launch like an earlier one. JSON in, JSON out.

in:  {"directories": [path], "images": [path], "hashes": folder, "models_dir": path, "models": [id], "quota": [word],
      "weights": [[id, commit or null]]}
out: {"python", "time", "host", "directories": {path: {...}}, "images": {path: {...}}, "models": [id], "quota": text,
      "weights": {id: {"revision", "weights"} or null}}
"""

import json
import os
import platform
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

from model_folder import find
from weights import describe

QUOTA_TIMEOUT_S = 15
QUOTA_CHARACTERS = 2000


def directory(path: str) -> Dict[str, Any]:
    """Whether it is there and may be written, and how much is free. Sizes in bytes."""
    full = os.path.expanduser(path)
    there = full
    while not os.path.isdir(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    try:
        space = os.statvfs(there)
    except OSError as exc:
        return {"exists": False, "error": str(exc.strerror)}
    return {
        "exists": there == full,
        # where it is not there yet: whether it could be made
        "writable": os.access(there, os.W_OK | os.X_OK),
        "nearest": there,
        "free": space.f_bavail * space.f_frsize,
        "total": space.f_blocks * space.f_frsize,
    }


def image(path: str, hashes: str) -> Dict[str, Any]:
    """Size, recorded hash, and the hash that a job computed of this very file, where one did."""
    full = os.path.expanduser(path)
    try:
        known = os.stat(full)
    except OSError as exc:
        return {"exists": False, "error": str(exc.strerror)}
    name = "%d-%d-%d" % (known.st_ino, known.st_size, known.st_mtime_ns)
    return {
        "exists": True,
        "readable": os.access(full, os.R_OK),
        "size": known.st_size,
        "recorded": first_word(full + ".sha256"),
        "computed": first_word(os.path.join(os.path.expanduser(hashes), name)),
    }


def first_word(path: str) -> Optional[str]:
    """What a small file begins with, None where there is none."""
    try:
        with open(path, encoding="ascii") as source:
            words = source.read(200).split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0] if words else None


def has_model(models_dir: str, model: str) -> bool:
    """Whether there is a folder for it, plain or as the hub's cache keeps it. How whole it is, is not looked at."""
    root = os.path.expanduser(models_dir)
    cached = "models--" + model.replace("/", "--")
    places = [os.path.join(root, model), os.path.join(root, cached), os.path.join(root, "hub", cached)]
    return any(os.path.isdir(place) for place in places)


def weights(models_dir: str, model: str, wanted: Optional[str]) -> Optional[Dict[str, Any]]:
    """Commit and digest of the model that a job would serve, None where there is none. wanted: the commit to prefer."""
    try:
        folder, revision = find(os.path.expanduser(models_dir), model, wanted)
    except OSError:
        return None
    return {"revision": revision, "weights": describe(folder)} if folder else None


def quota(words: List[str]) -> str:
    """What the site's own program says."""
    if not words:
        return ""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=QUOTA_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return "%s: %s" % (words[0], exc)
    return done.stdout.strip()[:QUOTA_CHARACTERS]


def main() -> None:
    """One look."""
    asked = json.load(sys.stdin)  # type: Dict[str, Any]
    json.dump(
        {
            "python": platform.python_version(),
            "time": time.time(),
            "host": platform.node(),
            "directories": {path: directory(path) for path in asked["directories"]},
            "images": {path: image(path, asked["hashes"]) for path in asked["images"]},
            "models": [model for model in asked["models"] if has_model(asked["models_dir"], model)],
            "weights": {
                model: weights(asked["models_dir"], model, wanted) for model, wanted in asked.get("weights", [])
            },
            "quota": quota(asked["quota"]),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
