"""Commands on the login node: arguments, output, limits, the queue, and lost connections."""

from __future__ import annotations

import asyncio
import time

import asyncssh
import httpx
from bouchet_core.config.job_scripts import load_scripts
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits
from bouchet_gateway.ssh.login_shell import MARKER

from .login_node import LoginNode
from .running import REMOTE, api_client, connected, started, wait_for_state, wait_until

SCRIPTS = load_scripts(REMOTE).folder("~/bouchet")
SBATCH = ["sbatch", f"{SCRIPTS}/vllm-serve.sbatch", SCRIPTS]
ECHO = '#!/bin/sh\nprintf "%s|" "$@"\n'
NASTY = ["a'; echo foo", "two\nlines", "ünï → 日本", '$HOME `id` \\ "q"', "", "*", "-n", "~", "a~/b"]


async def run(client: httpx.AsyncClient, argv: list[str], **body: object) -> httpx.Response:
    """Run a command over the internal API."""
    return await client.post("/v1/run", json={"argv": argv, **body})


def program_of(line: str) -> str:
    """Return the program of a line as the gateway sends it: `... timeout ... env NAME=VALUE... PROGRAM ...`."""
    arguments = line.partition(" timeout ")[2].split()[3:]
    while arguments[0] == "env" or "=" in arguments[0]:
        arguments = arguments[1:]
    return arguments[0]


async def test_run_arguments_arrive_unchanged(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", ECHO)
    answer = (await run(client, ["squeue", *NASTY])).json()
    assert answer == {"exit_status": 0, "stdout": "".join(f"{w}|" for w in NASTY), "stderr": "", "truncated": False}


async def test_run_tilde_is_the_remote_home(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", ECHO)
    answer = (await run(client, ["squeue", "~/a b", "--chdir=~/x"])).json()
    assert answer["stdout"] == f"{login_node.home}/a b|--chdir={login_node.home}/x|"


async def test_run_sets_slurm_time_format(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", '#!/bin/sh\nprintf %s "$SLURM_TIME_FORMAT"\n')
    assert (await run(client, ["squeue"])).json()["stdout"] == "%s"


async def test_run_passes_stdin_stderr_and_status(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("sbatch", "#!/bin/sh\ncat; echo no >&2; exit 3\n")
    answer = (await run(client, ["sbatch", "--test-only"], stdin="ja → nein")).json()
    assert answer == {"exit_status": 3, "stdout": "ja → nein", "stderr": "no\n", "truncated": False}


async def test_run_over_timeout_is_killed(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", "#!/bin/sh\nsleep 60\n")
    began = time.monotonic()
    answer = await run(client, ["squeue"], timeout_s=0.3)
    assert (answer.status_code, answer.json()["kind"]) == (504, "command_timeout")
    assert time.monotonic() - began < 30


async def test_run_output_over_limit_is_truncated(login_node: LoginNode, store: Store) -> None:
    login_node.program("squeue", "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x\nexit 4\n")
    limits = GatewayLimits(output_bytes=1000)
    async with started(login_node, store, limits=limits) as gateway, api_client(gateway) as client:
        answer = (await run(client, ["squeue"])).json()
    assert answer == {"exit_status": 4, "stdout": "x" * 1000, "stderr": "", "truncated": True}


async def test_run_output_not_utf8_is_replaced(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", "#!/bin/sh\nprintf 'a\\377b'\n")
    assert (await run(client, ["squeue"])).json()["stdout"] == "a\N{REPLACEMENT CHARACTER}b"


async def test_run_not_allowed_never_reaches_cluster(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    answer = await run(client, ["rm", "-rf", "/"])
    assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed")
    assert login_node.commands == []


async def test_run_at_most_eight_at_once(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    now = most = 0
    full = asyncio.Event()

    async def slow(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 8:
            full.set()
        async with asyncio.timeout(30):
            await full.wait()
        # time for a ninth to begin, if it could
        await asyncio.sleep(0.05)
        now -= 1
        process.stdout.write(f"{MARKER}\n".encode())
        process.exit(0)

    login_node.run = slow
    answers = await asyncio.gather(*(run(client, ["squeue"]) for _ in range(30)))
    assert [a.status_code for a in answers] == [200] * 30
    assert most == 8
    assert login_node.accepted == 1


async def test_run_without_free_place_in_time_is_not_started(login_node: LoginNode, store: Store) -> None:
    go = asyncio.Event()

    async def slow(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await go.wait()
        process.stdout.write(f"{MARKER}\n".encode())
        process.exit(0)

    login_node.run = slow
    limits = GatewayLimits(commands=1)
    async with connected(login_node, store, limits=limits) as gateway, api_client(gateway) as client:
        first = asyncio.create_task(run(client, ["squeue"]))
        await wait_until(lambda: bool(login_node.commands))
        late = await run(client, ["squeue"], timeout_s=0.2)
        assert (late.status_code, late.json()["kind"]) == (503, "tunnel_down")
        assert "not started" in late.json()["detail"]
        go.set()
        assert (await first).status_code == 200
    assert len(login_node.commands) == 1


async def test_run_while_tunnel_is_down_waits(
    gateway: Gateway, client: httpx.AsyncClient, login_node: LoginNode
) -> None:
    login_node.program("sbatch", ECHO)
    await login_node.stop()
    await wait_for_state(gateway, TunnelState.DOWN)
    waiting = asyncio.create_task(run(client, SBATCH))
    await asyncio.sleep(0.1)
    await login_node.start()
    assert (await waiting).json()["stdout"] == "".join(f"{login_node.home}/{path[2:]}|" for path in SBATCH[1:])


async def test_run_while_tunnel_is_down_longer_than_timeout_fails(
    client: httpx.AsyncClient, login_node: LoginNode
) -> None:
    await login_node.stop()
    answer = await run(client, SBATCH, timeout_s=0.3)
    assert (answer.status_code, answer.json()["kind"]) == (503, "tunnel_down")
    await login_node.start()


async def test_run_lost_connection_repeats_only_reading_commands(
    client: httpx.AsyncClient, login_node: LoginNode
) -> None:
    async def cut_once(process: asyncssh.SSHServerProcess[bytes]) -> None:
        login_node.run = login_node.shell
        login_node.cut()

    login_node.program("squeue", ECHO)
    login_node.run = cut_once
    assert (await run(client, ["squeue", "again"])).json()["stdout"] == "again|"
    login_node.run = cut_once
    answer = await run(client, SBATCH)
    assert (answer.status_code, answer.json()["kind"]) == (504, "command_timeout")
    assert "may or may not have run" in answer.json()["detail"]
    assert [program_of(line) for line in login_node.commands] == ["squeue", "squeue", "sbatch"]


async def test_run_and_files_share_one_connection(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", ECHO)
    calls = [client.put("/v1/files", params={"path": f"~/bouchet/jobs/{n}"}, content=b"x") for n in range(20)]
    await asyncio.gather(*calls, *(run(client, ["squeue"]) for _ in range(20)))
    status = TunnelStatus.model_validate_json((await client.get("/v1/status")).content)
    assert (login_node.accepted, status.connections, status.reconnects, status.open_channels) == (1, 1, 0, 0)


async def test_token_is_no_shell_on_the_login_node(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    """Try every way to bring a program to the login node and run it there with the gateway's token."""
    program, root = b"#!/bin/sh\ntouch ~/owned\n", "~/bouchet"
    job, own = f"{root}/jobs/x", load_scripts(REMOTE)
    login_node.program("sbatch", '#!/bin/sh\nwhile [ "$1" != "${1#--}" ]; do shift; done\nexec bash "$@"\n')
    for path in (f"{SCRIPTS}/node.sh", f"{SCRIPTS}/x.sh", f"{root}/remote/x.sh", f"{job}/setup.sh", f"{root}/x.sh"):
        answer = await client.put("/v1/files", params={"path": path, "mode": "700"}, content=program)
        assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed"), path
    for path in (f"{job}/x.sh", f"{job}/vllm-serve.sbatch", f"{job}/hub_fetch.py"):
        assert (await client.put("/v1/files", params={"path": path, "mode": "700"}, content=program)).is_success
    for name, content in own.staged_files().items():
        assert (await client.put("/v1/files", params={"path": f"{SCRIPTS}/{name}"}, content=content)).is_success
    quota = '{"directories": [], "images": [], "models": [], "quota": ["sh", "-c", "touch ~/owned"]}'
    for argv in (
        [f"{job}/x.sh"],
        ["bash", f"{job}/x.sh"],
        ["sh", f"{job}/x.sh"],
        ["python3", f"{job}/x.sh"],
        ["sbatch", f"{job}/vllm-serve.sbatch", SCRIPTS],
        ["sbatch", f"{SCRIPTS}/batch.sbatch", "x.sh", job, job],
        ["sbatch", f"--output={SCRIPTS}/node.sh", f"{SCRIPTS}/batch.sbatch", "x", job, SCRIPTS],
        ["bash", f"{SCRIPTS}/batch.sbatch", "x.sh", job, job],
        ["python3", f"{SCRIPTS}/download.py", "run", job, job],
        ["python3", f"{SCRIPTS}/download.py", "detach", job, job, f"{root}/logs/x.log"],
        ["python3", f"{SCRIPTS}/probe_login_node.py"],
    ):
        answer = await run(client, argv, stdin=quota)
        assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed"), argv
    assert login_node.commands == []
    assert not (login_node.home / "owned").exists()
