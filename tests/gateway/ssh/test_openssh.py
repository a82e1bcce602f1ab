"""Logins to OpenSSH's own sshd: its methods with a real PAM, and login shells whose start-up files print or end.

sshd runs in a mount namespace of its own, where a user of the tests exists: /etc/passwd, /etc/shadow and PAM's rules
for sshd are the test's files there, and nothing of this machine is changed.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED

from tests.conftest import free_port
from tests.gateway.login_node import LoginNode
from tests.gateway.running import (
    USER,
    answer_prompt,
    api_client,
    connected,
    started,
    wait_for_prompt,
    wait_for_state,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PASSWORD, PASSCODE = "correct horse", "1234567"
ROW = "5|RUNNING|None|1|1|n1|n1|gpu|bouchet-x-1"
MENU = "Duo two-factor login\n\n 1. Duo Push to XXX-XXX-1234\n 3. SMS passcodes to XXX-XXX-1234\n\n"
SENT = "New SMS passcodes sent.\n\n"
# of PAM: the menu, then a question whose answer this script judges; option 3 sends passcodes, and the menu comes again.
# pam_permit gives the credentials, without which sshd closes a connection that it has just accepted
JUDGE = f"""#!/bin/sh
answer=$(tr -d '\\000')
[ "$answer" = {PASSCODE} ] && exit 0
[ "$answer" = 3 ] && printf '%s' "{SENT}{MENU}" > FOLDER/menu
exit 1
"""
DUO = """auth optional pam_echo.so file=FOLDER/menu
auth required pam_exec.so expose_authtok quiet FOLDER/judge
auth required pam_permit.so
account required pam_permit.so
session required pam_permit.so
"""
START_UP = {
    "bash": ".bashrc",
    "tcsh": ".tcshrc",
    "fish": ".config/fish/config.fish",
    "zsh": ".zshenv",
}


@contextmanager
def openssh(node: LoginNode, folder: Path, lines: str, pam: str = "", shell: str = "bash") -> Iterator[LoginNode]:
    """Run sshd for the tests' user, with these lines in its configuration; `node` has its keys, home and port."""
    program = shutil.which(shell)
    assert program, f"{shell} is not installed"
    folder.mkdir()
    hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True).stdout
    texts = {
        "passwd": f"{Path('/etc/passwd').read_text()}{USER}:x:0:0::{node.home}:{program}\n",
        "shadow": f"{Path('/etc/shadow').read_text()}{USER}:{hashed.strip()}:19000:0:99999:7:::\n",
        "pam": pam.replace("FOLDER", str(folder)) or "auth required pam_deny.so\n",
        "menu": MENU,
        "judge": JUDGE.replace("FOLDER", str(folder)),
        "keys": node.user_key.export_public_key().decode(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "judge").chmod(0o755)
    node.host_key.write_private_key(str(folder / "host_key"))
    (folder / "host_key").chmod(0o600)
    node.port = free_port()
    node.trust(node.host_key)
    base = (
        f"Port {node.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\n"
        f"PermitRootLogin yes\nUsePAM {'yes' if pam else 'no'}\nSubsystem sftp /usr/lib/openssh/sftp-server\n"
    )
    (folder / "config").write_text(lines.replace("FOLDER", str(folder)) + base)
    Path("/run/sshd").mkdir(exist_ok=True)
    mounts = {"passwd": "/etc/passwd", "shadow": "/etc/shadow", "pam": "/etc/pam.d/sshd"}
    binds = " && ".join(f"mount --bind '{folder}/{name}' {place}" for name, place in mounts.items())
    script = f"{binds} && exec /usr/sbin/sshd -D -E '{folder}/log' -f '{folder}/config'"
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
    try:
        wait_for(lambda: process.poll() is not None or listens(node.port), 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield node
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Return whether a server accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def node(tmp_path: Path) -> LoginNode:
    """Return keys, a home and a folder for the gateway; no server yet."""
    return LoginNode(tmp_path)


KEYS = "AuthorizedKeysFile FOLDER/keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"


def keygen(*arguments: str) -> None:
    """Run ssh-keygen."""
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, timeout=60)


async def test_server_that_takes_certificates_alone(node: LoginNode, store: Store, tmp_path: Path) -> None:
    key, ca = node.ssh_dir / "id_ed25519", tmp_path / "ca"
    await asyncio.to_thread(keygen, "-t", "ed25519", "-N", "", "-f", str(ca))
    key.with_suffix(".pub").write_bytes(node.user_key.export_public_key())
    lines = f"TrustedUserCAKeys {ca}.pub\nAuthorizedKeysFile none\nPasswordAuthentication no\n"
    with openssh(node, tmp_path / "sshd", f"{lines}KbdInteractiveAuthentication no\n"):
        async with started(node, store) as gateway:
            status = await wait_for_state(gateway, TunnelState.REFUSED)
            assert "try `ssh " in status.detail
        sign = ("-s", str(ca), "-I", "me", "-n", USER, "-V", "-1h:+1h", f"{key}.pub")
        await asyncio.to_thread(keygen, *sign)
        async with connected(node, store) as gateway, api_client(gateway) as client:
            answer = await client.post("/v1/run", json={"argv": ["squeue"], "stdin": None, "timeout_s": 20})
            assert answer.json()["exit_status"] == 127


async def test_server_that_asks_for_a_password(node: LoginNode, store: Store, tmp_path: Path) -> None:
    lines = "PubkeyAuthentication no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n"
    with openssh(node, tmp_path / "sshd", lines):
        async with started(node, store) as gateway:
            first = await wait_for_prompt(gateway)
            assert first.prompt is not None and first.prompt.questions == (f"{USER}@127.0.0.1's password: ",)
            await answer_prompt(gateway, first, "wrong")
            second = await wait_for_prompt(gateway, first)
            await answer_prompt(gateway, second, PASSWORD)
            await wait_for_state(gateway, TunnelState.UP)


async def test_server_with_duos_menu_sends_passcodes_and_asks_again(
    node: LoginNode, store: Store, tmp_path: Path
) -> None:
    lines = "PubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication yes\n"
    with openssh(node, tmp_path / "sshd", lines, DUO):
        async with started(node, store) as gateway:
            first = await wait_for_prompt(gateway)
            shown = text_of(first)
            assert "1. Duo Push" in shown and "3. SMS passcodes" in shown and SENT.strip() not in shown
            await answer_prompt(gateway, first, "3")
            second = await wait_for_prompt(gateway, first)
            assert SENT.strip() in text_of(second) and NOT_ACCEPTED not in text_of(second)
            await answer_prompt(gateway, second, PASSCODE)
            await wait_for_state(gateway, TunnelState.UP)


def text_of(status: TunnelStatus) -> str:
    """Return all that a prompt shows."""
    prompt = status.prompt
    assert prompt is not None
    return "\n".join([prompt.title, *prompt.questions])


def ssh_output(node: LoginNode, command: str) -> str:
    """Return what the real ssh prints of a command there."""
    key = node.ssh_dir / "id_ed25519"
    key.chmod(0o600)
    options = ["BatchMode=yes", f"UserKnownHostsFile={node.ssh_dir}/known_hosts", f"IdentityFile={key}"]
    argv = ["ssh", "-F", "none", "-T", "-p", str(node.port), *(word for option in options for word in ("-o", option))]
    done = subprocess.run([*argv, f"{USER}@127.0.0.1", command], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("shell", START_UP)
async def test_login_shell_that_prints_harms_neither_commands_nor_files(
    node: LoginNode, store: Store, tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    start_up = node.home / START_UP[shell]
    start_up.parent.mkdir(parents=True, exist_ok=True)
    start_up.write_text("echo 'Welcome to the cluster!'\n")
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin/squeue"
    squeue.write_text(f"#!/bin/sh\necho '{ROW}'\necho late >&2\n")
    squeue.chmod(0o755)
    (tmp_path / "motd").write_text("Scheduled maintenance on Tuesday\n")
    with openssh(node, tmp_path / "sshd", f"{KEYS}Banner {tmp_path}/motd\n", shell=shell):
        assert "Welcome" in await asyncio.to_thread(ssh_output, node, "true"), "the start-up file prints"
        ssh = {"path": (str(tmp_path / "bin"),)}
        async with connected(node, store, ssh=ssh) as gateway, api_client(gateway) as client:
            answer = await client.post("/v1/run", json={"argv": ["squeue"], "stdin": None, "timeout_s": 20})
            assert (answer.json()["exit_status"], answer.json()["stdout"]) == (0, f"{ROW}\n"), answer.text
            assert answer.json()["stderr"] == "late\n"
            path = "~/bouchet/jobs/a"
            put = await client.put("/v1/files", params={"path": path, "mode": "600"}, content=b"\x00text\n")
            assert put.is_success, put.text
            assert (await client.get("/v1/files", params={"path": path})).content == b"\x00text\n"


async def test_login_shell_that_exits_is_named(node: LoginNode, store: Store, tmp_path: Path) -> None:
    (node.home / ".bashrc").write_text("echo 'This node is for transfers'\nexit 0\n")
    with openssh(node, tmp_path / "sshd", KEYS):
        async with connected(node, store) as gateway, api_client(gateway) as client:
            answer = await client.post("/v1/run", json={"argv": ["squeue"], "stdin": None, "timeout_s": 20})
            detail = answer.json()["detail"]
            assert answer.status_code >= 500 and "~/.bashrc" in detail and "This node is for transfers" in detail
