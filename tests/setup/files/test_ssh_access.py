"""What the gateway logs in with, and the refusal of what its container could not use: root's agent and root's key.

The tests run as any user: a "person" of theirs is this process, and the containers' user another one.
"""

from __future__ import annotations

import io
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from setup.docker.stack import Stack
from setup.errors import ClusterLoginError
from setup.files.env_file import EnvSettings
from setup.files.ssh_access import (
    AGENT_OF_ENVIRONMENT,
    SshAccess,
    access_variables,
    describe_refusal,
    find_access,
    find_keys,
    parse_identity_agent,
)
from setup.progress import Progress
from setup.up import bring_up
from tests.fakes.docker_program import FakeEngine

ROOT = Path(__file__).parents[3]
ME, OTHER = os.getuid(), os.getuid() + 10001
SECRET = "0123456789abcdef"


def settings_of(uid: int) -> EnvSettings:
    return EnvSettings({"BOUCHET_UID": str(uid), "BOUCHET_GID": str(uid), "BOUCHET_HOST": "hpc"})


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Put an engine without a daemon on PATH, and an ssh that names the usual key of HOME."""
    engine = FakeEngine(tmp_path)
    ssh = engine.bin / "ssh"
    lines = "user me\\nidentityfile %s/.ssh/id_rsa\\nidentityfile %s/.ssh/id_ed25519\\n"
    ssh.write_text(f'#!/bin/sh\nprintf "{lines}" "$HOME" "$HOME"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", engine.path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return engine


@pytest.fixture
def key(engine: FakeEngine, tmp_path: Path) -> Path:
    """Make a private key of this process' user."""
    key = tmp_path / ".ssh" / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    key.chmod(0o600)
    return key


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """Yield the socket of an agent of this process' user."""
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Return a stack in a folder of its own, with the checkout's site files, catalog and pins."""
    root = tmp_path / "checkout"
    (root / ".secrets").mkdir(parents=True, mode=0o700)
    for name in ("sites", "apptainer", "models.yaml", ".env.example"):
        (root / name).symlink_to(ROOT / name)
    return Stack(root, "bouchet", root / ".env", {})


def up(stack: Stack, containers: int) -> None:
    """Run `make up` with an env file that names a cluster and the containers' user."""
    keys = "".join(
        f"{name}={name}-{SECRET}\n"
        for name in ("BOUCHET_API_KEY", "BOUCHET_ADMIN_KEY", "REDIS_PASSWORD", "GATEWAY_TOKEN", "SERVING_SECRET")
    )
    users = f"BOUCHET_UID={containers}\nBOUCHET_GID={containers}\n"
    stack.env_file.write_text(f"{keys}{users}PROXY_PORT=4000\nAPI_PORT=4001\nBOUCHET_HOST=hpc\nBOUCHET_SITE=demo\n")
    stack.env_file.chmod(0o600)
    with Progress(io.StringIO()) as progress:
        bring_up(stack, progress)


@pytest.mark.usefixtures("key")
def test_make_up_root_with_agent_is_refused_before_anything(
    engine: FakeEngine, stack: Stack, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    with pytest.raises(ClusterLoginError, match=rf"user {OTHER} .*{agent}.*id_ed25519"):
        up(stack, OTHER)
    assert engine.state["calls"] == [] and list(stack.secrets_dir.iterdir()) == []


def test_make_up_root_without_agent_is_refused_before_anything(engine: FakeEngine, stack: Stack, key: Path) -> None:
    with pytest.raises(ClusterLoginError, match=str(key)):
        up(stack, OTHER)
    assert engine.state["calls"] == [] and list(stack.secrets_dir.iterdir()) == []


def test_find_access_own_agent_comes_before_key(engine: FakeEngine, stack: Stack, key: Path, agent: Path) -> None:
    assert find_access(stack, settings_of(ME), {"SSH_AUTH_SOCK": str(agent)}) == SshAccess(agent=agent)
    assert find_access(stack, settings_of(ME), {}) == SshAccess(key=key)


def test_find_access_key_given_to_containers_is_used_beside_foreign_agent(
    engine: FakeEngine, stack: Stack, key: Path, agent: Path
) -> None:
    """Root follows the advice; where these tests do not run as root, everybody may read the key instead."""
    if ME == 0:
        os.chown(key, OTHER, OTHER)
    else:
        key.chmod(0o604)
    (stack.secrets_dir / "agent-socket").write_text(str(agent))  # remembered from an earlier start
    assert find_access(stack, settings_of(OTHER), {"SSH_AUTH_SOCK": str(agent)}) == SshAccess(key=key)


def test_find_access_with_nothing_is_no_error(engine: FakeEngine, stack: Stack) -> None:
    assert find_access(stack, settings_of(OTHER), {}) == SshAccess()


@pytest.mark.parametrize("option", ["PubkeyAuthentication no", "PreferredAuthentications gssapi-with-mic,password"])
@pytest.mark.parametrize("jump_takes_keys", [False, True])
def test_find_access_refuses_nothing_where_ssh_offers_no_key(
    engine: FakeEngine, stack: Stack, key: Path, agent: Path, option: str, jump_takes_keys: bool
) -> None:
    """The agent and the key are not the containers' user's, which matters only where a host takes keys."""
    config = key.parent / "config"
    at_gate = "IdentityFile ~/.ssh/id_rsa" if jump_takes_keys else option
    config.write_text(f"Host hpc\n ProxyJump gate\n {option}\nHost gate\n {at_gate}\n")
    (engine.bin / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
    environ = {"SSH_AUTH_SOCK": str(agent)}
    if jump_takes_keys:
        with pytest.raises(ClusterLoginError, match=str(agent)):
            find_access(stack, settings_of(OTHER), environ)
        return
    access = find_access(stack, settings_of(OTHER), environ)
    assert access == SshAccess(wanted=False)
    stderr = io.StringIO()
    with Progress(stderr) as progress:
        assert set(access_variables(access, settings_of(OTHER), stack, progress)) == {"BOUCHET_SSH_DIR"}
    assert stderr.getvalue() == ""


def test_find_access_keeps_agent_in_use(engine: FakeEngine, stack: Stack, agent: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    environ = {"SSH_AUTH_SOCK": str(agent)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(old))
        listener.listen()
        (stack.secrets_dir / "agent-socket").write_text(str(old))
        assert find_access(stack, settings_of(ME), environ) == SshAccess(agent=old)
    assert find_access(stack, settings_of(ME), environ) == SshAccess(agent=agent)


def test_access_variables_name_agent_or_key(stack: Stack) -> None:
    stderr = io.StringIO()
    with Progress(stderr) as progress:
        given = access_variables(SshAccess(agent=Path("/a")), settings_of(ME or 1), stack, progress)
        assert given["BOUCHET_AGENT_SOCKET"] == "/a" and "BOUCHET_KEY_FILE" not in given
        given = access_variables(SshAccess(key=Path("/k/id")), settings_of(ME or 1), stack, progress)
        assert given["BOUCHET_KEY_INSIDE"] == "/run/ssh-key/id" and "BOUCHET_AGENT_SOCKET" not in given
        given = access_variables(SshAccess(), settings_of(ME or 1), stack, progress)
        assert set(given) == {"BOUCHET_SSH_DIR"}
    assert (stack.secrets_dir / "agent-socket").read_text() == "/a"
    assert "ssh-add" in stderr.getvalue()


@pytest.mark.parametrize(
    ("containers", "person", "advice"),
    [(10001, 0, "`chown 10001 /k`"), (7, 1000, "BOUCHET_UID=1000"), (1000, 1000, "owner and mode")],
)
def test_describe_refusal_says_what_to_do(containers: int, person: int, advice: str) -> None:
    assert advice in describe_refusal([Path("/a")], [Path("/k")], containers, person)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/a/b", "/a/b"),
        ("~/agent.sock", "HOME/agent.sock"),
        ("%d/agent-%r.sock", "HOME/agent-me.sock"),
        ('"${SOCKETS}/a b"', "/opt/s/a b"),
        ("$WORK_AGENT", "/run/work.sock"),
        ("$UNSET_AGENT", ""),
        ("none", ""),
        ("SSH_AUTH_SOCK", AGENT_OF_ENVIRONMENT),
        (None, AGENT_OF_ENVIRONMENT),
    ],
)
def test_parse_identity_agent_is_as_sshs(tmp_path: Path, value: str | None, path: str) -> None:
    config = tmp_path / "config"
    config.write_text("Host hpc\n User me\n" + (f" IdentityAgent {value}\n" if value else ""))
    environ = {"SOCKETS": "/opt/s", "WORK_AGENT": "/run/work.sock", "PATH": os.environ["PATH"]}
    answer = subprocess.run(
        ["ssh", "-T", "-F", str(config), "-G", "hpc"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert parse_identity_agent(answer, environ) == path.replace("HOME", pwd.getpwuid(os.getuid()).pw_dir)


def test_find_access_takes_no_other_agent_than_ssh_does(
    engine: FakeEngine, stack: Stack, key: Path, agent: Path
) -> None:
    ssh = engine.bin / "ssh"
    own = ssh.read_text()
    (stack.secrets_dir / "agent-socket").write_text(str(agent))
    for value in ("none", "/run/not-there.sock", "$NOT_SET"):
        ssh.write_text(f"{own}echo 'identityagent {value}'\n")
        assert find_access(stack, settings_of(ME), {"SSH_AUTH_SOCK": str(agent)}) == SshAccess(key=key)
    ssh.write_text(f"{own}echo 'identityagent $WORK'\n")
    assert find_access(stack, settings_of(ME), {"WORK": str(agent)}) == SshAccess(agent=agent)


def test_find_keys_returns_existing_files_in_order(tmp_path: Path) -> None:
    key = tmp_path / "work key"
    key.write_text("...")
    answer = f"user me\nidentityfile {tmp_path}/none\nidentityfile {key}\nidentityfile {tmp_path}/other\n"
    assert find_keys(answer) == [key]
    assert find_keys("user me\n") == []
