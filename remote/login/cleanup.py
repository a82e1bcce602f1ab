"""Removes our own files of ended jobs: JSON in, JSON out. Python 3.6, standard library.

in:  {"root": path, "live": [job name], "live_ids": [Slurm id], "ended": [job name], "keep_days": number or null}
out: {"secrets": [job name], "folders": [job name], "logs": [file name], "trouble": why not all, or null}

A job's key (a download's token) is removed as soon as its record has ended. Its folder is removed `keep_days` after the
last change in it (removing the key is one), a log that long after its last line. Files of live jobs and of other users
are kept at any age.
"""

import json
import os
import re
import shutil
import stat
import sys
import time
from typing import Any, Callable, Dict, List

SECRETS = ("key", "token")
JOB_NAME = re.compile(r"^bouchet-[A-Za-z0-9._-]+$")
# unfinished ones (.tmp) too
FILE_OF_JOB_ID = re.compile(r"^(?:(?:connection|end|heartbeat)-)?([0-9]+)\.(?:log|json)(?:\..*tmp)?$")
FILE_OF_JOB_NAME = re.compile(r"^(bouchet-[A-Za-z0-9._-]+)\.log$")
# the rest is left for the next pass: one SSH connection serves everything
MAX_PASS_S = 40
MAX_REMOVALS = 5000
DAY_S = 24 * 3600


class CleanupPass:
    """One pass. request: as above; now: seconds since 1970."""

    def __init__(self, request: Dict[str, Any], now: float) -> None:
        root = os.path.expanduser(request["root"])
        self.jobs, self.logs = os.path.join(root, "jobs"), os.path.join(root, "logs")
        self.live = set(request["live"]) | {str(job_id) for job_id in request["live_ids"]}
        self.ended = set(request["ended"]) - self.live
        self.oldest = now - request["keep_days"] * DAY_S if request["keep_days"] else None
        self.deadline = time.monotonic() + MAX_PASS_S
        self.removed = 0
        self.trouble = ""

    def run(self) -> Dict[str, Any]:
        """Remove what is due, and return the names."""
        folders = [name for name in names_in(self.jobs) if JOB_NAME.match(name) and name not in self.live]
        secrets = [name for name in folders if name in self.ended and self.attempt(self.remove_secrets, name)]
        old = [name for name in folders if self.attempt(self.remove_folder, name)]
        logs = [name for name in names_in(self.logs) if self.attempt(self.remove_log, name)]
        return {"secrets": secrets, "folders": old, "logs": logs, "trouble": self.trouble or None}

    def attempt(self, action: Callable[[str], bool], name: str) -> bool:
        """Return whether the action removed something. An error is noted, and the pass goes on."""
        if time.monotonic() > self.deadline or self.removed >= MAX_REMOVALS:
            self.trouble = self.trouble or "too much for one pass: the rest is left for the next one"
            return False
        try:
            has_removed = action(name)
            self.removed += has_removed
            return has_removed
        except FileNotFoundError:
            # another installation cleans up the same folder
            return False
        except OSError as exc:
            self.trouble = self.trouble or "%s: %s" % (exc.filename or name, exc.strerror)
            return False

    def remove_secrets(self, name: str) -> bool:
        """Remove the key or token of an ended job."""
        folder = os.path.join(self.jobs, name)
        if not is_own(folder, stat.S_ISDIR):
            return False
        found = [path for path in (os.path.join(folder, secret) for secret in SECRETS) if os.path.lexists(path)]
        for path in found:
            os.remove(path)
        return bool(found)

    def remove_folder(self, name: str) -> bool:
        """Remove the folder of a job that ended long ago."""
        folder = os.path.join(self.jobs, name)
        if not is_own(folder, stat.S_ISDIR):
            return False
        paths = [folder] + [os.path.join(folder, part) for part in os.listdir(folder)]
        if not self.is_old(max(os.lstat(path).st_mtime for path in paths)):
            return False
        shutil.rmtree(folder)
        return True

    def remove_log(self, name: str) -> bool:
        """Remove a log, connection, heartbeat or end file of a job that ended long ago."""
        found, path = FILE_OF_JOB_ID.match(name) or FILE_OF_JOB_NAME.match(name), os.path.join(self.logs, name)
        if not found or found.group(1) in self.live or not is_own(path, stat.S_ISREG):
            return False
        if not self.is_old(os.lstat(path).st_mtime):
            return False
        os.remove(path)
        return True

    def is_old(self, changed: float) -> bool:
        """Return whether the last change is more than `keep_days` ago."""
        return self.oldest is not None and changed < self.oldest


def names_in(folder: str) -> List[str]:
    """Return the names in a folder; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def is_own(path: str, is_kind: Callable[[int], bool]) -> bool:
    """Return whether it is of that kind, no link, and this user's: a group may share the folder."""
    known = os.lstat(path)
    return is_kind(known.st_mode) and known.st_uid == os.geteuid()


def main() -> None:
    """Read the request from standard input and print the result."""
    json.dump(CleanupPass(json.load(sys.stdin), time.time()).run(), sys.stdout)


if __name__ == "__main__":
    main()
