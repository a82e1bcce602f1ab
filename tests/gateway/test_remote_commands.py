"""The inside door over real SSH: commands, files, words for what goes wrong."""

from __future__ import annotations

import asyncio
import os
import time

import asyncssh
import httpx
import pytest
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits

from .conftest import LoginNode, door_of, make_settings, reached, until

SCRIPT = "~/bouchet/remote/x"
ECHO = '#!/bin/sh\nprintf "%s|" "$@"\n'
NASTY = ["a'; echo foo", "two\nlines", "ünï → 日本", '$HOME `id` \\ "q"', "", "*", "-n", "~", "a~/b"]


async def run(door: httpx.AsyncClient, argv: list[str], **body: object) -> httpx.Response:
    return await door.post("/v1/run", json={"argv": argv, **body})


async def test_a_command_runs_and_its_words_arrive_unchanged(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", ECHO)
    answer = (await run(door, ["squeue", *NASTY])).json()
    assert answer == {"exit_status": 0, "stdout": "".join(f"{w}|" for w in NASTY), "stderr": "", "truncated": False}


async def test_home_is_the_remote_one(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", ECHO)
    answer = (await run(door, ["squeue", "~/a b", "--chdir=~/x"])).json()
    assert answer["stdout"] == f"{login_node.home}/a b|--chdir={login_node.home}/x|"


async def test_slurm_prints_times_that_need_no_zone(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", '#!/bin/sh\nprintf %s "$SLURM_TIME_FORMAT"\n')
    assert (await run(door, ["squeue"])).json()["stdout"] == "%s"


async def test_stdin_stderr_and_status_come_through(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("sbatch", "#!/bin/sh\ncat; echo no >&2; exit 3\n")
    answer = (await run(door, ["sbatch", "--test-only"], stdin="ja → nein")).json()
    assert answer == {"exit_status": 3, "stdout": "ja → nein", "stderr": "no\n", "truncated": False}


async def test_a_slow_command_times_out_and_is_ended(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", "#!/bin/sh\nsleep 60\n")
    began = time.monotonic()
    answer = await run(door, ["squeue"], timeout_s=0.3)
    assert (answer.status_code, answer.json()["kind"]) == (504, "command_timeout")
    assert time.monotonic() - began < 30
    assert answer.headers["content-type"] == "application/problem+json"


async def test_too_much_output_is_cut_and_said(login_node: LoginNode, store: Store) -> None:
    login_node.program("squeue", "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x\nexit 4\n")
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(output_bytes=1000)), store)
    async with gateway.running(), door_of(gateway) as door:
        answer = (await run(door, ["squeue"])).json()
    assert answer == {"exit_status": 4, "stdout": "x" * 1000, "stderr": "", "truncated": True}


async def test_bytes_that_are_no_text_do_not_break_the_answer(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    login_node.program("squeue", "#!/bin/sh\nprintf 'a\\377b'\n")
    assert (await run(door, ["squeue"])).json()["stdout"] == "a\N{REPLACEMENT CHARACTER}b"


async def test_what_is_not_allowed_never_reaches_the_cluster(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    answer = await run(door, ["rm", "-rf", "/"])
    assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed")
    assert login_node.commands == []


async def test_at_most_eight_commands_at_once_and_the_rest_wait(door: httpx.AsyncClient, login_node: LoginNode) -> None:
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
        # time for a ninth, if there were one
        await asyncio.sleep(0.05)
        now -= 1
        process.exit(0)

    login_node.run = slow
    answers = await asyncio.gather(*(run(door, ["squeue"]) for _ in range(30)))
    assert [a.status_code for a in answers] == [200] * 30
    assert most == 8
    assert login_node.accepted == 1


async def test_a_command_that_finds_no_place_in_time_was_not_started(login_node: LoginNode, store: Store) -> None:
    go = asyncio.Event()

    async def slow(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await go.wait()
        process.exit(0)

    login_node.run = slow
    gateway = Gateway(make_settings(login_node, limits=GatewayLimits(commands=1)), store)
    async with gateway.running(), door_of(gateway) as door:
        await reached(gateway, TunnelState.UP)
        first = asyncio.create_task(run(door, ["squeue"]))
        await until(lambda: bool(login_node.commands))
        late = await run(door, ["squeue"], timeout_s=0.2)
        assert (late.status_code, late.json()["kind"]) == (503, "tunnel_down")
        assert "not started" in late.json()["detail"]
        go.set()
        assert (await first).status_code == 200
    assert len(login_node.commands) == 1


async def test_a_file_is_written_whole_with_its_mode(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    data = os.urandom(3_000_000)
    answer = await door.put("/v1/files", params={"path": "~/bouchet/jobs/a b'c/run.sh", "mode": "700"}, content=data)
    assert (answer.status_code, answer.content) == (204, b"")
    folder = login_node.home / "bouchet" / "jobs" / "a b'c"
    assert [path.name for path in folder.iterdir()] == ["run.sh"]
    assert (folder / "run.sh").read_bytes() == data
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (login_node.home / "bouchet").stat().st_mode & 0o777 == 0o700


async def test_a_file_is_replaced(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    for text in (b"first, longer", b"second"):
        await door.put("/v1/files", params={"path": "~/bouchet/x"}, content=text)
    assert (login_node.home / "bouchet" / "x").read_bytes() == b"second"
    assert (login_node.home / "bouchet" / "x").stat().st_mode & 0o777 == 0o600


async def test_a_write_that_fails_leaves_nothing_behind(door: httpx.AsyncClient, login_node: LoginNode) -> None:
    (login_node.home / "bouchet" / "taken").mkdir(parents=True)
    answer = await door.put("/v1/files", params={"path": "~/bouchet/taken"}, content=b"x")
    assert (answer.status_code, answer.json()["kind"]) == (502, "remote_refused")
    assert [path.name for path in (login_node.home / "bouchet").iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("offset", "max_bytes", "expected"),
    [(0, 4, b"0123"), (6, 100, b"6789"), (-3, 100, b"789"), (-100, 2, b"01"), (50, 10, b""), (0, 0, b"")],
)
async def test_a_piece_of_a_file(
    door: httpx.AsyncClient, login_node: LoginNode, offset: int, max_bytes: int, expected: bytes
) -> None:
    (login_node.home / "models").mkdir()
    (login_node.home / "models" / "log").write_bytes(b"0123456789")
    where = {"path": f"{login_node.home}/models/log", "offset": offset, "max_bytes": max_bytes}
    answer = await door.get("/v1/files", params=where)
    assert (answer.status_code, answer.content, answer.headers["X-File-Size"]) == (200, expected, "10")


async def test_a_missing_file_is_its_own_answer(door: httpx.AsyncClient) -> None:
    answer = await door.get("/v1/files", params={"path": "~/bouchet/none"})
    assert (answer.status_code, answer.json()["kind"]) == (404, "file_missing")


@pytest.mark.parametrize("path", ["~/bouchet/../.ssh/id_rsa", "/etc/passwd", "bouchet/x", "~root/x", "~/bouchetx/y"])
async def test_paths_outside_are_refused(door: httpx.AsyncClient, path: str) -> None:
    for answer in (
        await door.get("/v1/files", params={"path": path}),
        await door.put("/v1/files", params={"path": path}, content=b"x"),
    ):
        assert (answer.status_code, answer.json()["kind"]) == (403, "not_allowed")


async def test_files_share_one_connection_with_commands(
    gateway: Gateway, door: httpx.AsyncClient, login_node: LoginNode
) -> None:
    login_node.program("squeue", ECHO)
    calls = [door.put("/v1/files", params={"path": f"~/bouchet/{n}"}, content=b"x") for n in range(20)]
    await asyncio.gather(*calls, *(run(door, ["squeue"]) for _ in range(20)))
    status = TunnelStatus.model_validate_json((await door.get("/v1/status")).content)
    assert (login_node.accepted, status.connections, status.reconnects, status.open_channels) == (1, 1, 0, 0)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic test-token", "Bearer", "Bearer tést"])
async def test_the_door_wants_its_token(gateway: Gateway, header: str | None) -> None:
    async with door_of(gateway) as door:
        del door.headers["authorization"]
        headers = {"authorization": header.encode()} if header else {}
        for method, path in [("GET", "/v1/status"), ("POST", "/v1/run"), ("PUT", "/v1/files"), ("POST", "/v1/connect")]:
            answer = await door.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
        assert (await door.get("/healthz")).json() == {"status": "ok"}


async def test_invalid_bodies_are_told_without_their_content(door: httpx.AsyncClient) -> None:
    answer = await door.post("/v1/answer", json={"prompt_id": "x", "responses": "123456"})
    assert (answer.status_code, answer.json()["kind"]) == (422, "bad_request")
    assert "123456" not in answer.text
    assert (await run(door, [])).status_code == 422
    assert (await run(door, ["squeue"], timeout_s=0)).status_code == 422
    assert (await run(door, ["squeue"], timeout_s=1e9)).json()["kind"] == "bad_request"


async def test_while_down_commands_wait_and_then_run(
    gateway: Gateway, door: httpx.AsyncClient, login_node: LoginNode
) -> None:
    login_node.program("sbatch", ECHO)
    await login_node.stop()
    await reached(gateway, TunnelState.DOWN)
    waiting = asyncio.create_task(run(door, ["sbatch", SCRIPT]))
    await asyncio.sleep(0.3)
    await login_node.start()
    assert (await waiting).json()["stdout"] == f"{login_node.home}/bouchet/remote/x|"


async def test_a_command_that_cannot_start_says_the_tunnel_is_down(
    gateway: Gateway, door: httpx.AsyncClient, login_node: LoginNode
) -> None:
    await login_node.stop()
    answer = await run(door, ["sbatch", SCRIPT], timeout_s=0.3)
    assert (answer.status_code, answer.json()["kind"]) == (503, "tunnel_down")
    await login_node.start()


async def test_a_command_cut_off_is_unknown_unless_it_only_looks(
    gateway: Gateway, door: httpx.AsyncClient, login_node: LoginNode
) -> None:
    async def cut_once(process: asyncssh.SSHServerProcess[bytes]) -> None:
        login_node.run = login_node.shell
        login_node.cut()

    login_node.program("squeue", ECHO)
    login_node.run = cut_once
    assert (await run(door, ["squeue", "again"])).json()["stdout"] == "again|"
    login_node.run = cut_once
    answer = await run(door, ["sbatch", SCRIPT])
    assert (answer.status_code, answer.json()["kind"]) == (504, "command_timeout")
    assert "may or may not have run" in answer.json()["detail"]
    assert [_program(line) for line in login_node.commands] == ["squeue", "squeue", "sbatch"]


def _program(line: str) -> str:
    """The program of a line as the gateway sends it: `timeout ... [env NAME=VALUE...] PROGRAM ...`."""
    words = line.split()[4:]
    while words[0] == "env" or "=" in words[0]:
        words = words[1:]
    return words[0]
