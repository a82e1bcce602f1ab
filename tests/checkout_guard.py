"""Keeps tests away from the checkout's own `.env` and `.secrets`: they are of a stack that may run at the same time."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# the stack of commands in tests; there is none
TEST_PROJECT = "of-a-test"
# the tests of the stack have an env file of their own (.env.test), beside the template
_PRIVATE = re.compile(re.escape(str(ROOT)) + rf"/\.(env|secrets(?!-{TEST_PROJECT}$)[^/]*)(/.*)?")
_EVENTS = frozenset({"open", "os.scandir", "os.listdir"})


class CheckoutReadError(AssertionError):
    """A test reads a file of the checkout's own stack."""


def is_private(path: str) -> bool:
    """Tell whether `path` belongs to the checkout's own stack."""
    return _PRIVATE.fullmatch(str(Path(path).resolve())) is not None


def refuse_private(event: str, arguments: tuple[object, ...]) -> None:
    """Raise CheckoutReadError for an access of Python's to such a file; an audit hook."""
    # an interpreter that ends has emptied this module
    if not _EVENTS or event not in _EVENTS or not arguments or not isinstance(path := arguments[0], (str, os.PathLike)):
        return
    name = os.fspath(path)
    if not isinstance(name, str) or not (".env" in name or ".secrets" in name):
        return
    # os.open has no mode; its relative path may be of another folder (dir_fd)
    if (Path(name).is_absolute() or (event == "open" and arguments[1] is not None)) and is_private(name):
        raise CheckoutReadError(f"this test reads {name}; give it a folder of its own")


def install() -> None:
    """Watch this process, for the whole of its life."""
    sys.addaudithook(refuse_private)
