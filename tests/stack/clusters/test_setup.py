"""`bouchet setup` on a terminal, with the demo's login node as a real cluster behind a person's ssh configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.stack.clusters.flavours import HOME, as_root
from tests.stack.clusters.person import ALIAS, LoginRelay, Typist, make_person
from tests.stack.harness import PROJECT, ROOT, Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE

# the address of this machine that containers of every network reach
BRIDGE = "172.17.0.1"
NAME = f"{PROJECT}-person"
ENV = ROOT / f".env.{NAME}"
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Person:
    """A second installation on this machine."""

    environ: dict[str, str]

    def types(self, *arguments: str) -> Typist:
        return Typist([str(ROOT / "bouchet"), *arguments], self.environ, TIMEOUT_S)


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Iterator[Person]:
    as_root(stack, "demo-login", f"mkdir -p {HOME}/project_pi_x; chown researcher: {HOME}/project_pi_x")
    with LoginRelay((LOGIN_NODE, 22)) as relay:
        own = make_person(stack, tmp_path, BRIDGE, relay.port)
        os.chown(tmp_path / "id_ed25519", 10001, 10001)
        site = (ROOT / "sites" / "demo.yaml").read_text()
        for before, after in (
            ("name: demo\n", f"name: {ALIAS}\n"),
            ("login: {host: login, user: researcher}", f"login: {{host: {BRIDGE}}}"),
            ("root: /home/researcher/bouchet-llm", 'root: "{project}/bouchet-llm"'),
            ("models_dir: /software/models", 'models_dir: "{project}/models"\nmodels_dirs: [/software/models]'),
        ):
            assert before in site
            site = site.replace(before, after)
        (Path(own["BOUCHET_SITE_DIR"]) / f"{ALIAS}.yaml").write_text(site)
        environ = {**stack.environ, **own, "COMPOSE_PROJECT_NAME": NAME, "BOUCHET_ENV_FILE": ENV.name}
        environ |= {"TERM": "xterm", "COLUMNS": "200"}
        made = Typist(["make", "env"], environ, 60)
        assert made.end() == 0, made.shown
        text = ENV.read_text()
        for name in ("PROXY_PORT", "API_PORT"):
            text = re.sub(rf"^{name}=.*$", f"{name}={free_port()}", text, flags=re.M)
        ENV.write_text(text)
        try:
            yield Person(environ)
        finally:
            Typist([str(ROOT / "bouchet"), "cancel", "--all"], environ, 60).end()
            assert Typist(["make", "remove"], environ, 180).end() == 0
            ENV.unlink()
            # the stack's own model again, which other tests ask
            done = stack.make("up")
            assert done.status == 0, done.output


def test_setup_reaches_the_first_answer(stack: Stack, person: Person) -> None:
    stack.bouchet("cancel", "--all")
    first = person.types("setup")
    first.until("the alias that you type after `ssh`: ")
    first.type(ALIAS)
    first.until("Directory for weights, images and logs")
    first.interrupt()
    assert first.end() == 130 and "goes on from here" in first.shown, first.shown
    again = person.types("setup")
    again.until("choose the cluster: done")
    again.until("Directory for weights, images and logs")
    again.type("")
    again.until("Model (any name of `bouchet models`)")
    again.type("")
    assert again.end() == 0, again.shown
    assert re.search(r"bouchet-smollm2: .*Paris", again.shown), again.shown[-2000:]
    assert "build the container image on the cluster (10 to 20 minutes in a job): done" in again.shown
    assert "download the model" in again.shown
    # what a person types in all, with the answers of the run that was stopped
    assert len(first.typed) + len(again.typed) <= 8
    assert f"BOUCHET_PROJECT_DIR={HOME}/project_pi_x/researcher" in ENV.read_text()
