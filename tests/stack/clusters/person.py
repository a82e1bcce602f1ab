"""A person's machine beside the demo: an own ssh configuration and key, and an own folder of site files."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.stack.harness import ROOT, Finished, Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE, key_of

ALIAS = "mycluster"


def make_person(
    stack: Stack, folder: Path, host: str = LOGIN_NODE, port: int = 22, *, has_key: bool = True, options: str = ""
) -> dict[str, str]:
    """Write key, ssh configuration and site files of a person; return the environment of that person's commands.

    ssh takes the home folder of the user database, not HOME, so a program in front of it names the configuration.
    options: further ones for the cluster.
    """
    config = folder / "config"
    config.write_text(
        f"Host {ALIAS}\n  HostName {host}\n  Port {port}\n  User researcher\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking accept-new\n  {options}\n"
    )
    if has_key:
        key_of(stack, "researcher", folder)
        # the containers' user; ssh accepts it from root all the same
        os.chown(folder / "id_ed25519", 10001, 10001)
        config.write_text(f"{config.read_text()}  IdentityFile {folder}/id_ed25519\n")
    programs = folder / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" "$@"\n')
    ssh.chmod(0o755)
    sites = folder / "sites"
    sites.mkdir()
    shutil.copy(ROOT / "sites" / "demo.models.yaml", sites)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "BOUCHET_SITE_DIR": str(sites), "HOME": str(folder)}


def run_as(person: Mapping[str, str], run: Callable[..., Finished], *arguments: str) -> Finished:
    """Run a command of the stack in the person's environment."""
    return run(*arguments, **person)


def with_demo_image(text: str) -> str:
    """Return a probed site file with the image and models of the demo, which has no GPU image."""
    head, _, rest = text.partition("default_image:")
    partitions = rest[rest.index("partitions:") :]
    own = 'images_dir: "{project}/bouchet-llm/images"'
    assert own in head
    return (
        head.replace(own, "images_dir: /software/images\nmodels_dirs: [/software/models]")
        + "default_image: cpu-0.32.0\nimages: [{pin: cpu-0.32.0, vllm: 0.32.0}]\nextra_models: demo.models.yaml\n"
        + "default_model: HuggingFaceTB/SmolLM2-135M-Instruct\n"
        + partitions
    )


class LoginRelay:
    """A port on all of this machine's addresses that leads to the login node: containers of other stacks reach it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("0.0.0.0", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> LoginRelay:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Typist:
    """A program on a terminal, which is its controlling one, with a person who types answers when a text appears."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self.shown = ""
        self.typed: list[str] = []
        self._read_to = 0
        ours, theirs = pty.openpty()
        self._ours = ours
        # ssh asks for passwords on /dev/tty
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=dict(environ)
        )
        os.close(theirs)

    def until(self, text: str) -> None:
        """Read until the text has been shown since the last call."""
        while text not in self.shown[self._read_to :]:
            assert self._read(), f"{text!r} did not appear: {self.shown[-3000:]}"
        self._read_to = self.shown.index(text, self._read_to) + len(text)

    def type(self, text: str) -> None:
        """Type a line."""
        self.typed.append(text)
        os.write(self._ours, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Send what Ctrl-C sends to the program and all that it started."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        while self._read():
            pass
        os.close(self._ours)
        return self.process.wait(30)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(self._deadline - time.monotonic(), 0))
        assert ready, f"it took too long: {self.shown[-3000:]}"
        try:
            data = os.read(self._ours, 1 << 14)
        except OSError:
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
