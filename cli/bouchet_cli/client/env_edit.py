"""Settings in `.env`, set one by one: the line of a key is replaced, its comment stays, the file stays private.

Files of a person are replaced as a whole, so that a full disk or Ctrl-C leaves the old one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bouchet_core.env_file import EnvLineError, parse_env_lines

from .errors import CommandError


def read_values(path: Path) -> dict[str, str]:
    """Return the settings, none where there is no file. Raises CommandError for a line that does not parse."""
    try:
        return {entry.key: entry.value for entry in parse_env_lines(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return {}
    except EnvLineError as exc:
        raise CommandError(f"{path}:{exc.line}: {exc.problem}") from exc
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror}") from exc


def set_values(path: Path, values: Mapping[str, str]) -> None:
    """Set these settings, beside all others. Raises CommandError where the file cannot be written."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc
    for key, value in values.items():
        text = with_value(text, key, value)
    replace_file(path, text)


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write the file beside itself and move it into place; a link stays one, and leads to the new file.

    Raises CommandError where it cannot be written; the old file is as it was then.
    """
    try:
        target = path.resolve()
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(text.encode("utf-8", "surrogateescape"))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc


def with_value(text: str, key: str, value: str) -> str:
    """Return the file's text with that setting: in its own line, else after its commented example, else at the end."""
    line = f"{key}={value}"
    own = re.compile(rf"(?m)^{key}=.*$")
    if own.search(text):
        return own.sub(lambda _: line, text, count=1)
    example = re.compile(rf"(?m)^# ?{key}=.*$")
    if example.search(text):
        return example.sub(lambda found: f"{found[0]}\n{line}", text, count=1)
    return f"{text.rstrip(chr(10))}\n{line}\n"
