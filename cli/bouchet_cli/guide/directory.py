"""Whether the directory that a person chose can hold anything: a few KiB are written there, and removed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

# The directory itself may be made later, but below one that is there. `dd` fails where the quota is used up.
_SCRIPT = """
directory={directory}
case $directory in "~/"*) directory=$HOME/${{directory#"~/"}} ;; esac
above=$directory
while [ ! -d "$above" ]; do above=${{above%/*}}; [ -n "$above" ] || above=/; done
section above; printf '%s\n' "$above"
test=$above/.bouchet-setup-$$
section written
if [ "$above" != / ]; then
  (umask 077; LC_ALL=C dd if=/dev/zero of="$test" bs=1024 count=64) && printf 'all\n'
  rm -f "$test"
fi
"""


def directory_script(directory: str) -> str:
    """Return the script for a login node. It leaves nothing behind."""
    return _SCRIPT.format(directory=shlex.quote(directory))


def directory_problem(directory: str, sections: Mapping[str, str]) -> str:
    """Return why the directory cannot be used, in the words of the system there; empty where it can."""
    above, written = sections.get("above", "").strip(), sections.get("written", "").strip()
    if above == "/":
        return f"there is no {directory} on the cluster, and nothing above it"
    lines = written.splitlines()
    if lines and lines[-1] == "all":
        return ""
    reason = next((line.rpartition(": ")[2] for line in lines if line.startswith("dd:") or "annot create" in line), "")
    return f"nothing can be written to {above} on the cluster: {reason or written or 'no reason given'}"
