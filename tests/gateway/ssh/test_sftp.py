"""Files on the login node: written whole or not at all, read in parts."""

from __future__ import annotations

import os

import httpx
import pytest

from tests.gateway.login_node import LoginNode


async def put(client: httpx.AsyncClient, path: str, content: bytes, **params: str) -> httpx.Response:
    return await client.put("/v1/files", params={"path": path, **params}, content=content)


async def test_put_writes_whole_file_with_mode_and_parents(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    data = os.urandom(3_000_000)
    answer = await put(client, "~/bouchet/jobs/a b'c/run.sh", data, mode="700")
    assert (answer.status_code, answer.content) == (204, b"")
    folder = login_node.home / "bouchet" / "jobs" / "a b'c"
    assert [path.name for path in folder.iterdir()] == ["run.sh"]
    assert (folder / "run.sh").read_bytes() == data
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (login_node.home / "bouchet").stat().st_mode & 0o777 == 0o700


async def test_put_replaces_file(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    for text in (b"first, longer", b"second"):
        await put(client, "~/bouchet/jobs/x", text)
    assert (login_node.home / "bouchet" / "jobs" / "x").read_bytes() == b"second"
    assert (login_node.home / "bouchet" / "jobs" / "x").stat().st_mode & 0o777 == 0o600


async def test_put_failure_leaves_no_part_file(client: httpx.AsyncClient, login_node: LoginNode) -> None:
    (login_node.home / "bouchet" / "jobs" / "taken").mkdir(parents=True)
    answer = await put(client, "~/bouchet/jobs/taken", b"x")
    assert (answer.status_code, answer.json()["kind"]) == (502, "remote_refused")
    assert [path.name for path in (login_node.home / "bouchet" / "jobs").iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("offset", "max_bytes", "expected"),
    [(0, 4, b"0123"), (6, 100, b"6789"), (-3, 100, b"789"), (-100, 2, b"01"), (50, 10, b""), (0, 0, b"")],
)
async def test_get_returns_part_of_file(
    client: httpx.AsyncClient, login_node: LoginNode, offset: int, max_bytes: int, expected: bytes
) -> None:
    (login_node.home / "models").mkdir()
    (login_node.home / "models" / "log").write_bytes(b"0123456789")
    params = {"path": f"{login_node.home}/models/log", "offset": str(offset), "max_bytes": str(max_bytes)}
    answer = await client.get("/v1/files", params=params)
    assert (answer.status_code, answer.content, answer.headers["X-File-Size"]) == (200, expected, "10")


async def test_get_missing_file_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/files", params={"path": "~/bouchet/none"})
    assert (answer.status_code, answer.json()["kind"]) == (404, "file_missing")
