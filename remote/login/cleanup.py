"""Removes what ended jobs have left among our own files: JSON in, JSON out. Standard library and Python 3.6 only.

in:  {"root": path, "live": [job name], "live_ids": [Slurm id], "ended": [job name], "keep_days": number or null}
out: {"secrets": [job name], "folders": [job name], "logs": [file name], "trouble": why not all, or null}

The key of a job (the token of a download) goes as soon as its record has ended. Its folder goes `keep_days` after the
last change in it, of which that removal is one; a log that long after its last line. What is live stays, whatever its
age, and so does what another user has put there.
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
JOB = re.compile(r"^bouchet-[A-Za-z0-9._-]+$")
# halves of these too
OF_JOB_ID = re.compile(r"^(?:(?:connection|end|heartbeat)-)?([0-9]+)\.(?:log|json)(?:\..*tmp)?$")
OF_JOB_NAME = re.compile(r"^(bouchet-[A-Za-z0-9._-]+)\.log$")
# the rest goes another day: the one connection has other things to do
MOST_S = 40
MOST = 5000
DAY_S = 24 * 3600

Asked = Dict[str, Any]


class Tidying:
    """One go. asked: as above."""

    def __init__(self, asked: Asked, now: float) -> None:
        root = os.path.expanduser(asked["root"])
        self.jobs, self.logs = os.path.join(root, "jobs"), os.path.join(root, "logs")
        self.live = set(asked["live"]) | {str(identity) for identity in asked["live_ids"]}
        self.ended = set(asked["ended"]) - self.live
        self.oldest = now - asked["keep_days"] * DAY_S if asked["keep_days"] else None
        self.deadline = time.monotonic() + MOST_S
        self.removed = 0
        self.trouble = ""

    def all(self) -> Dict[str, Any]:
        """What was removed."""
        folders = [name for name in names_in(self.jobs) if JOB.match(name) and name not in self.live]
        secrets = [name for name in folders if name in self.ended and self.done(self.forget_secrets, name)]
        old = [name for name in folders if self.done(self.forget_folder, name)]
        logs = [name for name in names_in(self.logs) if self.done(self.forget_log, name)]
        return {"secrets": secrets, "folders": old, "logs": logs, "trouble": self.trouble or None}

    def done(self, act: Callable[[str], bool], name: str) -> bool:
        """Whether it removed anything. A file that cannot be removed keeps no other from it."""
        if time.monotonic() > self.deadline or self.removed >= MOST:
            self.trouble = self.trouble or "that is much: the rest is left for the next time"
            return False
        try:
            removes = act(name)
            self.removed += removes
            return removes
        except FileNotFoundError:
            # another installation tidies too
            return False
        except OSError as exc:
            self.trouble = self.trouble or "%s: %s" % (exc.filename or name, exc.strerror)
            return False

    def forget_secrets(self, name: str) -> bool:
        """Of a job that needs them no more."""
        folder = os.path.join(self.jobs, name)
        if not is_own(folder, stat.S_ISDIR):
            return False
        found = [path for path in (os.path.join(folder, secret) for secret in SECRETS) if os.path.lexists(path)]
        for path in found:
            os.remove(path)
        return bool(found)

    def forget_folder(self, name: str) -> bool:
        """Of a job that ended long ago."""
        folder = os.path.join(self.jobs, name)
        if not is_own(folder, stat.S_ISDIR):
            return False
        parts = [folder] + [os.path.join(folder, part) for part in os.listdir(folder)]
        if not self.is_old(max(os.lstat(path).st_mtime for path in parts)):
            return False
        shutil.rmtree(folder)
        return True

    def forget_log(self, name: str) -> bool:
        """What an ended job printed, or wrote of itself."""
        found, path = OF_JOB_ID.match(name) or OF_JOB_NAME.match(name), os.path.join(self.logs, name)
        if not found or found.group(1) in self.live or not is_own(path, stat.S_ISREG):
            return False
        if not self.is_old(os.lstat(path).st_mtime):
            return False
        os.remove(path)
        return True

    def is_old(self, changed: float) -> bool:
        """Whether it was changed last so long ago that it may go."""
        return self.oldest is not None and changed < self.oldest


def names_in(folder: str) -> List[str]:
    """What lies there; nothing where there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def is_own(path: str, is_kind: Callable[[int], bool]) -> bool:
    """Whether it is of that kind, no link, and this user's: a group may share the folder."""
    known = os.lstat(path)
    return is_kind(known.st_mode) and known.st_uid == os.geteuid()


def main() -> None:
    """One go."""
    json.dump(Tidying(json.load(sys.stdin), time.time()).all(), sys.stdout)


if __name__ == "__main__":
    main()
