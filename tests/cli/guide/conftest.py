"""A person with a fresh clone, in front of a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.harness import Bouchet
from tests.fakes.cluster_programs import BOUCHET

SITE = """\
name: yale
title: A cluster
login: {host: login.yale.example}
key_passphrase: required
find_project: "`mydirectories` lists them"
root: "{project}/bouchet-llm"
mfa: Duo # a push
"""


@pytest.fixture
def person(bouchet: Bouchet, tmp_path: Path) -> Bouchet:
    """Return the command on a machine with an ssh that leads to a cluster, and a `make` that only makes .env."""
    programs = BOUCHET.install(tmp_path)
    for name in ("project_pi_ab12", "project_pi_cd34"):
        (tmp_path / name).mkdir()
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "yale.yaml").write_text(SITE)
    (tmp_path / "sites" / "demo.yaml").write_text("name: demo\nlogin: {host: login}\n")
    env, keys = tmp_path / "own.env", tmp_path / ".env"
    make = f'#!/bin/sh\nfor last; do :; done\ntest "$last" = env && cp {keys} {env} && chmod 600 {env}\n'
    # ssh -G, and a login that runs the script here
    ssh = (
        (programs / "ssh")
        .read_text()
        .replace(
            "case $1 in -O)", f'case $1 in -G) echo "hostname $2"; echo "identityfile {tmp_path}/id"; exit 0 ;; -O)'
        )
    )
    for name, text in (("make", make), ("ssh", ssh), ("ssh-add", "#!/bin/sh\nexit 1\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        **bouchet.environment, "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path),
        "BOUCHET_SITE_DIR": str(tmp_path / "sites"), "BOUCHET_ENV_FILE": str(env),
    }  # fmt: skip
    return replace(bouchet, environment=environment)
