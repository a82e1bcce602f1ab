"""Running shell scripts on a login node through the person's own ssh, with one login for all of them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_cli.client.errors import CommandError

TIMEOUT_S = 300
# how long the connection stays open for the next script
PERSIST_S = 60
LINES_SHOWN = 3
# what ssh says where no packet comes back, or no name is known outside of the site's network
UNREACHABLE = re.compile(
    r"timed out|Could not resolve|No route to host|Network is (?:unreachable|down)|Name or service not known"
    r"|nodename nor servname|Temporary failure in name resolution|Host is down",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LoginNode:
    """The login node of an alias. folder: of the connection's socket; environment: of ssh."""

    host: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self, script: str) -> dict[str, str]:
        """Return what each section of a shell script printed, by its name. A section begins with `section NAME`.

        ssh asks for passwords and passcodes on the terminal itself. Raises CommandError for a failed login, or where
        the login shell ends before the script runs.
        """
        mark = f"bouchet-{secrets.token_hex(6)}"
        prologue = f"section() {{ printf '\\n%s %s\\n' {mark} \"$1\"; }}\nexec 2>&1\n"
        text = f"{prologue}{script}\nsection end\n"
        try:
            done = subprocess.run(
                self._argv(), input=text, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
                env=dict(self.environment), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise CommandError(
                f"{self.host} did not answer within {TIMEOUT_S} s; try `ssh {self.host}` by hand"
            ) from exc
        sections = parse_sections(done.stdout, mark)
        if "end" not in sections:
            raise CommandError(self._failure(done))
        return sections

    def _argv(self) -> list[str]:
        options = {"ControlMaster": "auto", "ControlPath": f"{self.folder}/%C", "ControlPersist": str(PERSIST_S)}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-T", *words, self.host, "exec /bin/sh -s"]

    def _failure(self, done: subprocess.CompletedProcess[str]) -> str:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        words = "; ".join(lines[-LINES_SHOWN:])
        if done.returncode == 255:
            advice = "is the VPN on, if the site wants one? " if UNREACHABLE.search(words) else ""
            return (
                f"ssh could not log in to {self.host}: {words or 'no reason given'}; {advice}"
                f"`ssh {self.host}` shows the same"
            )
        return (
            f"the login shell on {self.host} ended before anything could run ({words or 'it printed nothing'}); a "
            "start-up file there may call `exit` or start another program: let it do so only in interactive shells"
        )


def parse_sections(output: str, mark: str) -> dict[str, str]:
    """Return the text of each section; what start-up files print before the first one is left out."""
    parts = re.split(rf"(?m)^{re.escape(mark)} (\S+)\n", output)
    return {name: text.strip("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@contextmanager
def login_node(host: str, environment: Mapping[str, str]) -> Iterator[LoginNode]:
    """Yield the login node, and close the connection in the end. Raises CommandError without ssh."""
    if shutil.which("ssh", path=environment.get("PATH")) is None:
        raise CommandError("this machine has no ssh; install it (OpenSSH's client) and try again")
    if host.startswith("-"):
        raise CommandError(f"{host!r} is not a host; name an alias of ~/.ssh/config or a host name")
    # a socket's path has at most about 100 characters
    with tempfile.TemporaryDirectory(prefix="bouchet-", dir="/tmp") as folder:
        node = LoginNode(host, Path(folder), environment)
        try:
            yield node
        finally:
            close_connection(node)


def close_connection(node: LoginNode) -> None:
    """Close the connection that the scripts share."""
    argv = ["ssh", "-O", "exit", "-o", f"ControlPath={node.folder}/%C", node.host]
    subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, env=dict(node.environment), check=False)
