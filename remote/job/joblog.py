"""What a job's log says, in a few lines. Standard library and Python 3.6 only."""

import os
import re
from typing import List, Optional

TAIL_BYTES = 64 * 1024
TAIL_LINES = 5
NAMES_AN_ERROR = re.compile(
    r"\b\w*(Error|Exception|error):|Value error,|^FATAL:|died unexpectedly|out of memory|No space left"
)

# vLLM warns of errors that might come
HARMLESS = re.compile(r"\b(?:INFO|WARNING) \d\d-\d\d [\d:]+ \[")


def error_lines(path: str, key: Optional[str] = None, begin_at: int = 0) -> List[str]:
    """The last lines of a log that name an error, from that byte on, without vLLM's prefixes, keys made illegible."""
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(begin_at, source.tell() - TAIL_BYTES))
            lines = source.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    named = [line for line in plain if NAMES_AN_ERROR.search(line) and not HARMLESS.search(line)]
    # on several nodes the node's name stands in front, and stays
    prefix = r"^([\w.-]+: )?(?:\([^)]*\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?"
    return [masked(re.sub(prefix, r"\1", line).strip(), key)[:500] for line in named][-TAIL_LINES:]


def masked(line: str, key: Optional[str]) -> str:
    """The line without this key and without what looks like one."""
    plain = line.replace(key, "***") if key else line
    return re.sub(r"\b(hf_|sk-)[A-Za-z0-9_-]{8,}|(?<=Bearer )\S+", "***", plain)


def says_port_taken(path: str, begin_at: int) -> bool:
    """Whether, from that byte on, a server says that it could not listen."""
    try:
        with open(path, "rb") as source:
            source.seek(begin_at)
            return bool(re.search(rb"EADDRINUSE|[Aa]ddress already in use", source.read()))
    except OSError:
        return False
