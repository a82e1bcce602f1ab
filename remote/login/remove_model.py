"""Removes a model's weights: `python3 remove_model.py MODELS_DIR MODEL` prints {"bytes": freed, "folders": [path]}.

Removes the model's folder, its partial download and its older commits, or its folder in a hub cache. A folder that
belongs to another user is left alone: exit status 1, a sentence on stderr. Python 3.6, standard library.
"""

import json
import os
import re
import shutil
import sys
from typing import Any, Dict, List

from model_folder import model_path, partial_path

# no part is `.` or `..`, which would lead out of the folder of models
MODEL = re.compile(r"^(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*\Z", re.ASCII)


class NotRemovedError(Exception):
    """Nothing was removed; the message says why."""


def find_folders(models_dir: str, model: str) -> List[str]:
    """Return every folder of the model, in plain form and in hub caches."""
    parent, name = os.path.split(model_path(models_dir, model))
    older = re.compile(r"^\.%s\.[^.]+\.\d+$" % re.escape(name))
    names = os.listdir(parent) if os.path.isdir(parent) else []
    cached = "models--" + model.replace("/", "--")
    found = [model_path(models_dir, model), partial_path(models_dir, model)]
    found += [os.path.join(parent, one) for one in sorted(names) if older.match(one)]
    found += [os.path.join(models_dir, cached), os.path.join(models_dir, "hub", cached)]
    return [folder for folder in found if os.path.lexists(folder)]


def remove_model(models_dir: str, model: str) -> Dict[str, Any]:
    """Remove all folders of the model. Raises NotRemovedError, before anything is removed, and OSError."""
    if not MODEL.match(model):
        raise NotRemovedError("%r is not the id of a model" % model)
    folders = find_folders(models_dir, model)
    for folder in folders:
        if os.lstat(folder).st_uid != os.geteuid():
            raise NotRemovedError("%s belongs to another user" % folder)
    freed = sum(disk_bytes(folder) for folder in folders)
    for folder in folders:
        if os.path.islink(folder):
            os.unlink(folder)
        else:
            shutil.rmtree(folder)
    parent = os.path.dirname(model_path(models_dir, model))
    if os.path.isdir(parent) and not os.listdir(parent):
        os.rmdir(parent)
    return {"bytes": freed, "folders": folders}


def disk_bytes(folder: str) -> int:
    """Return the bytes below a folder; a file with several names, such as a hard link, counts once."""
    sizes: Dict[Any, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            known = os.lstat(os.path.join(place, name))
            sizes[(known.st_dev, known.st_ino)] = known.st_size
    return sum(sizes.values())


def main(arguments: List[str]) -> int:
    """Remove, and print what was freed."""
    try:
        json.dump(remove_model(os.path.expanduser(arguments[0]), arguments[1]), sys.stdout)
    except (NotRemovedError, OSError) as exc:
        sys.stderr.write("%s\n" % exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
