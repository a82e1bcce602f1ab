"""A person's own installation on this machine, beside the stack whose demo cluster is the cluster to log in to."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.conftest import free_port
from tests.stack.clusters.flavours import HOME, USER, as_root
from tests.stack.clusters.person import Typist
from tests.stack.harness import PROJECT, ROOT, Stack
from tests.waiting import wait_for

# the address of this machine that containers of every network reach
BRIDGE = "172.17.0.1"
NAME = f"{PROJECT}-person"
ENV = ROOT / f".env.{NAME}"
PROJECT_DIR = f"{HOME}/project_pi_x"
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Installation:
    """A second installation on this machine."""

    environ: dict[str, str]

    def types(self, *arguments: str) -> Typist:
        """Start `./bouchet ...` on a terminal."""
        return Typist([str(ROOT / "bouchet"), *arguments], self.environ, TIMEOUT_S)

    def restart(self, stack: Stack, service: str) -> None:
        """Restart one of its services."""
        labels = [f"com.docker.compose.project={NAME}", f"com.docker.compose.service={service}"]
        (container,) = stack.docker.containers.list(filters={"label": labels})
        container.restart(timeout=10)

        def is_healthy() -> bool:
            container.reload()
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        wait_for(is_healthy, 60)


@contextlib.contextmanager
def installed(stack: Stack, person: Mapping[str, str]) -> Iterator[Installation]:
    """Make the person's .env, and yield the installation; remove it in the end, and start the stack's own model again.

    person: the environment that `make_person` returned.
    """
    as_root(stack, "demo-login", f"mkdir -p {PROJECT_DIR}; chown {USER}: {PROJECT_DIR}")
    environ = {**stack.environ, **person, "COMPOSE_PROJECT_NAME": NAME, "BOUCHET_ENV_FILE": ENV.name}
    environ |= {"TERM": "xterm", "COLUMNS": "200"}
    made = Typist(["make", "env"], environ, 60)
    assert made.end() == 0, made.shown
    text = ENV.read_text()
    for name in ("PROXY_PORT", "API_PORT"):
        text = re.sub(rf"^{name}=.*$", f"{name}={free_port()}", text, flags=re.M)
    ENV.write_text(text)
    stack.bouchet("cancel", "--all")
    try:
        yield Installation(environ)
    finally:
        Typist([str(ROOT / "bouchet"), "cancel", "--all"], environ, 60).end()
        assert Typist(["make", "remove"], environ, 180).end() == 0
        ENV.unlink()
        # the stack's own model again, which other tests ask
        done = stack.make("up")
        assert done.status == 0, done.output
