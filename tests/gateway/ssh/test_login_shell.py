"""Commands and files where the account's start-up files print, end the shell, or leave Slurm off the PATH."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import asyncssh
import httpx
import pytest
from bouchet_core.store import Store
from bouchet_gateway.ssh import login_shell
from bouchet_gateway.ssh.login_shell import MARKER, LoginShell, MarkedOutput

from tests.gateway.login_node import LoginNode
from tests.gateway.running import api_client, connected

ROW = "5|RUNNING|None|1|1|n1|n1|gpu|bouchet-x-1"


@pytest.fixture
def noisy(login_node: LoginNode) -> LoginNode:
    """Return a login node whose start-up files print to both streams, as bash does for sshd."""
    login_node.start_up = "echo 'Welcome to the cluster!'; echo 'Your quota is 80 % used' >&2; "
    login_node.program("squeue", f"#!/bin/sh\necho '{ROW}'\necho late >&2\n")
    return login_node


async def run(client: httpx.AsyncClient, *argv: str) -> httpx.Response:
    return await client.post("/v1/run", json={"argv": argv, "stdin": None, "timeout_s": 20})


async def test_command_output_is_without_the_start_up_files_text(noisy: LoginNode, client: httpx.AsyncClient) -> None:
    answer = (await run(client, "squeue", "--me")).json()
    assert (answer["exit_status"], answer["stdout"], answer["stderr"]) == (0, f"{ROW}\n", "late\n")


# the last line of start-up files that do not look whether the shell has a terminal
ENDS = ("exit 0; ", "exit 3; ", "exec cat; ", "exec sh; ", "exec tcsh -f; ", "exec zsh -f; ", "exec fish; ")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stdin", [None, "a script\n"])
async def test_command_after_a_start_up_that_ends_the_shell_says_so(
    noisy: LoginNode, client: httpx.AsyncClient, end: str, stdin: str | None
) -> None:
    noisy.start_up += end
    body = {"argv": ["squeue", "--me"], "stdin": stdin, "timeout_s": 20}
    answer = await client.post("/v1/run", json=body)
    assert answer.status_code >= 500
    detail = answer.json()["detail"]
    assert detail.startswith("squeue was not started: the start-up files of the account's shell")
    assert "Welcome to the cluster!" in detail and "~/.bashrc" in detail


async def test_command_in_the_sites_path_is_found(login_node: LoginNode, store: Store, tmp_path: Path) -> None:
    (tmp_path / "slurm bin").mkdir()
    program = tmp_path / "slurm bin/squeue"
    program.write_text(f"#!/bin/sh\necho '{ROW}'\n")
    program.chmod(0o755)
    async with connected(login_node, store) as gateway, api_client(gateway) as client:
        answer = (await run(client, "squeue")).json()
        assert answer["exit_status"] == 127 and "No such file" in answer["stderr"]
    ssh = {"path": (str(tmp_path / "slurm bin"),)}
    async with connected(login_node, store, ssh=ssh) as gateway, api_client(gateway) as client:
        assert (await run(client, "squeue")).json()["stdout"] == f"{ROW}\n"


async def test_messages_come_in_english(login_node: LoginNode, client: httpx.AsyncClient) -> None:
    login_node.start_up = "LANG=de_DE.UTF-8; LANGUAGE=de; export LANG LANGUAGE; "
    login_node.program("squeue", '#!/bin/sh\necho "$LC_MESSAGES $LANG"\n')
    assert (await run(client, "squeue")).json()["stdout"] == "C de_DE.UTF-8\n"


async def test_command_prefix_is_before_slurms_programs_only(login_node: LoginNode, store: Store) -> None:
    login_node.program("wrap", '#!/bin/sh\necho wrapped; exec "$@"\n')
    login_node.program("squeue", "#!/bin/sh\necho row\n")
    login_node.program("apptainer", "#!/bin/sh\necho 1.4.5\n")
    async with (
        connected(login_node, store, ssh={"command_prefix": ("wrap",)}) as gateway,
        api_client(gateway) as client,
    ):
        assert (await run(client, "squeue")).json()["stdout"] == "wrapped\nrow\n"
        assert (await run(client, "apptainer", "version")).json()["stdout"] == "1.4.5\n"


@pytest.mark.parametrize("shell", ["bash", "dash", "tcsh", "csh", "fish", "zsh", "ksh"])
async def test_command_line_is_the_same_in_every_shell(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    program = tmp_path / "show"
    program.write_text('#!/bin/sh\nprintf "%s|" "$PATH" "$@"\n')
    program.chmod(0o755)
    line = LoginShell((str(tmp_path), "/opt/slurm/bin")).command_line(["show", "a b", "%j|%T", "$x", "~/y", "*"], 9)
    environ = {"HOME": "/home/me", "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        shell, "-c", line, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    path = f"{tmp_path}:/opt/slurm/bin:{os.environ['PATH']}"
    assert output.decode() == f"{MARKER}\n{path}|a b|%j|%T|$x|/home/me/y|*|"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_marked_output_in_pieces_is_kept_from_the_marker_on(size: int) -> None:
    stream, text = MarkedOutput(10), f"hello\n--bouchet{MARKER}\n0123456789tail".encode()
    for at in range(0, len(text), size):
        stream.feed(text[at : at + size])
    assert (stream.text(), stream.truncated) == ("0123456789", True)


async def test_files_without_any_way_say_what_is_wrong(
    noisy: LoginNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(self: object, *args: object, **kwargs: object) -> None:
        raise asyncssh.SFTPBadMessage("Max packet size exceeded")

    # as the subsystem fails where the shell prints into it
    monkeypatch.setattr(asyncssh.SSHClientConnection, "start_sftp_client", start)
    monkeypatch.setattr(login_shell, "SFTP_START_S", 0.5)
    noisy.start_up += "exit 0; "
    async with connected(noisy, store) as gateway, api_client(gateway) as client:
        answer = await client.get("/v1/files", params={"path": "~/bouchet/jobs/a"})
    assert "start-up files of the account's shell print text" in answer.json()["detail"]
