"""A launch to an answer on clusters with other logins, by what a person types: `site probe`, `setup`, `tunnel`.

Part of `make soak`: each kind of login starts an installation of its own, which takes minutes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from bouchet_cli.client.env_edit import read_values
from bouchet_core.config.site import load_site

from tests.stack.clusters.flavours import USER
from tests.stack.clusters.installation import BRIDGE, ENV, PROJECT_DIR, Installation, installed
from tests.stack.clusters.logins import (
    LOGIN_KINDS,
    LoginKind,
    credentials,
    kerberos_environ,
    login_kind,
    offered_methods,
)
from tests.stack.clusters.person import ALIAS, LoginRelay, Typist, make_person, with_demo_image
from tests.stack.conftest import SMALL
from tests.stack.harness import Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE
from tests.stack.ssh.test_tunnel import wait_for_tunnel

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(params=LOGIN_KINDS, ids=[kind.name for kind in LOGIN_KINDS])
def kind(request: pytest.FixtureRequest) -> LoginKind:
    found: LoginKind = request.param
    return found


@pytest.fixture
def installation(stack: Stack, kind: LoginKind, tmp_path: Path) -> Iterator[Installation]:
    """Yield a person's installation, whose cluster accepts that kind of login alone."""
    with LoginRelay((LOGIN_NODE, 22)) as relay:
        person = make_person(stack, tmp_path, BRIDGE, relay.port, has_key=kind.has_key, options=kind.options)
        person |= kerberos_environ(tmp_path)
        with installed(stack, person) as installation:
            with login_kind(stack, kind):
                assert offered_methods(person) == kind.methods
                with credentials(stack, kind, tmp_path, person):
                    yield installation
            # the demo's own login again
            stack.container("gateway").restart(timeout=10)
            stack.wait_healthy("gateway", "api")
            wait_for_tunnel(stack, up=True, within_s=60)


def log_in(typist: Typist, kind: LoginKind) -> None:
    """Answer what a login asks."""
    for text, answer in kind.answers:
        typist.until(text)
        if answer:
            typist.type(answer)


def ask() -> str:
    """Return what the installation's model answers."""
    values = read_values(ENV)
    url = f"http://127.0.0.1:{values['PROXY_PORT']}/v1/messages"
    body = {"model": SMALL, "max_tokens": 48, "messages": [{"role": "user", "content": "The capital of France?"}]}
    answer = httpx.post(url, json=body, headers={"x-api-key": values["BOUCHET_API_KEY"]}, timeout=120)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"][0]["text"])


def logins(stack: Stack, kind: LoginKind, since: float) -> int:
    """Count the logins of that kind in sshd's log, whoever asked for them."""
    log = stack.container("demo-login").logs(since=int(since)).decode(errors="replace")
    accepted: list[str] = re.findall(rf"Accepted \S+ for {USER} .*", log)
    found = [line for line in accepted if re.search(kind.accepted, line)]
    assert found == accepted
    return len(found)


def test_launch_to_an_answer_with_this_kind_of_login(
    stack: Stack, installation: Installation, kind: LoginKind, tmp_path: Path
) -> None:
    since = time.time()
    probe = installation.types("site", "probe", ALIAS)
    log_in(probe, kind)
    assert probe.end() == 0, probe.shown
    site = tmp_path / "sites" / f"{ALIAS}.yaml"
    assert load_site(site, {"BOUCHET_PROJECT_DIR": PROJECT_DIR}).login.host == ALIAS
    site.write_text(with_demo_image(site.read_text()))

    answers = ("--cluster", ALIAS, "--project-dir", f"{PROJECT_DIR}/{USER}", "--model", MODEL)
    setup = installation.types("setup", *answers)
    setup.until("log in, and ask Slurm")
    log_in(setup, kind)
    setup.until("connect the services to the cluster")
    log_in(setup, kind)
    assert setup.end() == 0, setup.shown
    assert re.search(rf"{SMALL}: .*Paris", setup.shown), setup.shown[-2000:]

    # on another day
    installation.restart(stack, "gateway")
    tunnel = installation.types("tunnel")
    log_in(tunnel, kind)
    assert tunnel.end() == 0 and re.search(rf"tunnel to {ALIAS}: \S*up", tunnel.shown), tunnel.shown
    assert ask()
    # ssh's own twice, the gateway's twice
    assert logins(stack, kind, since) == 4
