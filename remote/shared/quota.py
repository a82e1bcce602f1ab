"""The user's storage quota, as the site's own program (`quota_command`) prints it. Python 3.6, standard library.

Two forms are understood; any other output is only shown:

- the bytes that may still be written, alone on a line;
- a table with the columns `Usage (UNIT)` and `Quota (UNIT)`, as Yale's `getquota` prints it. The row that counts is the
  one whose name is a folder of the path; of `gibbs:project` and `home.grace`, the name is `project` and `home`.
"""

import os
import re
import subprocess
from typing import List, Optional, Tuple

UNITS = {"KB": 1 << 10, "KIB": 1 << 10, "MB": 1 << 20, "MIB": 1 << 20, "GB": 1 << 30, "GIB": 1 << 30}
UNITS.update({"TB": 1 << 40, "TIB": 1 << 40})
NUMBER = re.compile(r"^[\d,]*\d(\.\d+)?$")
HEADER = re.compile(r"^(.*)\bUsage \((\w+)\)\s+(?:Quota|Limit) \((\w+)\)")


def run_quota_command(argv: List[str], timeout_s: int) -> str:
    """Return what the site's program prints, or why it could not be run; nothing where the site names none."""
    if not argv:
        return ""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return "%s: %s" % (argv[0], exc)
    return done.stdout.decode("utf-8", "replace").strip()


def bytes_left(output: str, folder: str) -> Optional[int]:
    """Return the bytes that may still be written below the folder, None where the output does not say."""
    alone = re.findall(r"^\s*(\d+)\s*$", output, re.M)
    if alone:
        return int(alone[-1])
    parts = os.path.realpath(os.path.expanduser(folder)).split(os.sep)
    found = [(parts.index(name), left) for name, left in _rows(output) if name in parts]
    # of a fileset within another, the inner one; of two groups' filesets of one name, the larger rest
    return max(found)[1] if found else None


def _rows(output: str) -> List[Tuple[str, int]]:
    """Return name and bytes left of each row that has a limit."""
    rows: List[Tuple[str, int]] = []
    columns: Optional[int] = None
    units = (0, 0)
    for line in output.splitlines():
        if line.startswith("#"):
            columns = None
        header = HEADER.match(line)
        if header:
            columns = len(header.group(1).split())
            units = (UNITS.get(header.group(2).upper(), 0), UNITS.get(header.group(3).upper(), 0))
            continue
        fields = line.split()
        if columns is None or len(fields) < columns + 2 or not all(NUMBER.match(f) for f in fields[columns:][:2]):
            continue
        used, limit = (float(f.replace(",", "")) * unit for f, unit in zip(fields[columns:], units))
        if limit > 0:
            name = re.split(r"[:/]", fields[0])[-1].split(".")[0]
            rows.append((name, max(int(limit - used), 0)))
    return rows
