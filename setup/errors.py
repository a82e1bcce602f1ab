"""Everything that can go wrong on the way up, as one tree. Each message is a sentence that says what to do.

SetupError
 +-- EnvFileError       .env has a typo, or is readable by others
 +-- ToolMissingError        an engine, Compose, a Debian package or Python is needed and cannot be installed here
 +-- EngineAccessError      there is an engine, and it will not talk to us
 +-- PortTakenError          somebody else listens where the proxy or the api should
 +-- AlreadyRunningError     another `make up` of the same stack
 +-- CommandFailedError      a program that we ran said no
 |    +-- DiskFullError
 +-- ServiceUnhealthyError   a container does not get well
 +-- ApiResponseError         the api or the proxy answered with an error, or not at all
 +-- LaunchFailedError       the demo deployment ended before it answered
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

TAIL_LINES = 15


class SetupError(Exception):
    """Base of all; `str()` is what a person reads."""


class EnvFileError(SetupError):
    """A line of the env file cannot be used. `line` is 1-based, 0 for the file as a whole."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}")


class ToolMissingError(SetupError):
    """Something has to be installed by a person."""

    def __init__(self, tool: str, advice: str) -> None:
        self.tool = tool
        super().__init__(f"{tool} is missing; {advice}")


class EngineAccessError(SetupError):
    """A Docker engine exists and refuses this user, or will not start."""


class PortTakenError(SetupError):
    """A port that we publish belongs to another program."""

    def __init__(self, port: int, variable: str, env_file: Path) -> None:
        self.port, self.variable = port, variable
        super().__init__(
            f"port {port} on 127.0.0.1 is taken by another program; stop it, or set {variable}=<port> in {env_file}"
        )


class AlreadyRunningError(SetupError):
    """Two runs on one stack would undo each other's work."""

    def __init__(self, project: str) -> None:
        super().__init__(f"another make command is working on the stack `{project}`; wait for it to end")


class CommandFailedError(SetupError):
    """A program ended with a non-zero status. `output` is what it printed, both streams."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        self.argv, self.status, self.output = list(argv), status, output
        tail = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-TAIL_LINES:])
        super().__init__(f"`{shorten(argv)}` ended with status {status}" + (f":\n{tail}" if tail else ""))


class DiskFullError(CommandFailedError):
    """The same, because the disk is full."""

    def __str__(self) -> str:
        return (
            f"the disk is full (`{shorten(self.argv)}`: no space left on device); free some space "
            "(`docker system df` shows what the engine holds, `docker builder prune` empties its build cache) "
            "and run `make up` again"
        )


class ServiceUnhealthyError(SetupError):
    """A container stopped, restarts again and again, or fails its health check for too long."""

    def __init__(self, service: str, state: str, log: str, probe: str = "") -> None:
        self.service, self.state = service, state
        lines = [f"{service} is not healthy: it {state}"]
        lines += [f"its health check said: {probe}"] if probe else []
        lines += ["its last lines:", *(f"  | {line}" for line in log.strip().splitlines()[-TAIL_LINES:])]
        super().__init__("\n".join(lines))


class ApiResponseError(SetupError):
    """`detail` repeats what the other side said."""

    def __init__(self, url: str, detail: str) -> None:
        self.url, self.detail = url, detail
        super().__init__(f"{url}: {detail}")


class LaunchFailedError(SetupError):
    """The deployment ended, or was not ready in time."""


def shorten(argv: Sequence[str], limit: int = 100) -> str:
    """The command as a person would type it, cut to `limit` characters."""
    text = shlex.join(argv)
    return text if len(text) <= limit else text[: limit - 4] + " ..."
