"""Everything that can go wrong in `make`, as one tree. Each message says what to do.

SetupError
 +-- EnvFileError             .env has a typo, or other users can read it
 +-- ToolMissingError         an engine, Compose, a Debian package or Python is needed and cannot be installed here
 +-- EngineAccessError        there is an engine, and it refuses this user
 +-- ClusterLoginError        the containers may use neither the person's ssh agent nor a key file
 +-- PortTakenError           another program listens on the port of the proxy or the API
 +-- AlreadyRunningError      another make command works on the same stack
 +-- CommandFailedError       a program failed
 |    +-- DiskFullError
 +-- ServiceUnhealthyError    a container does not become healthy
 +-- ApiResponseError         the API or the proxy answered with an error, or not at all
 +-- LaunchFailedError        the demo deployment ended before it answered
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


class ClusterLoginError(SetupError):
    """There are ssh agents or keys, and the containers' user may use none of them."""


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
        lines += [f"health check: {probe}"] if probe else []
        lines += ["last lines of its log:", *(f"  | {line}" for line in log.strip().splitlines()[-TAIL_LINES:])]
        super().__init__("\n".join(lines))


class ApiResponseError(SetupError):
    """`detail` is the message of the response."""

    def __init__(self, url: str, detail: str) -> None:
        self.url, self.detail = url, detail
        super().__init__(f"{url}: {detail}")


class LaunchFailedError(SetupError):
    """The deployment ended, or was not ready in time."""


def shorten(argv: Sequence[str], limit: int = 100) -> str:
    """Render a command as typed, cut to `limit` characters."""
    text = shlex.join(argv)
    return text if len(text) <= limit else text[: limit - 4] + " ..."
