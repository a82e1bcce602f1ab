"""`bouchet setup` on a terminal, with the demo's login node as a real cluster behind a person's ssh configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.clusters.installation import BRIDGE, ENV, PROJECT_DIR, Installation, installed
from tests.stack.clusters.person import ALIAS, LoginRelay, make_person
from tests.stack.harness import ROOT, Stack
from tests.stack.ssh.own_tunnel import LOGIN_NODE


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    with LoginRelay((LOGIN_NODE, 22)) as relay:
        own = make_person(stack, tmp_path, BRIDGE, relay.port)
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
        with installed(stack, own) as installation:
            yield installation


def test_setup_reaches_the_first_answer(person: Installation) -> None:
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
    assert f"BOUCHET_PROJECT_DIR={PROJECT_DIR}/researcher" in ENV.read_text()
