"""The files of the dashboard: what is served, with which headers, and how much it weighs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re

import httpx
import pytest
from bouchet_api.dashboard.pages import FOLDER, load_assets

MOST_BYTES = 150_000


async def test_page_is_served_without_a_session_and_says_nothing_of_this_installation(api: httpx.AsyncClient) -> None:
    answer = await api.get("/", headers={"Authorization": ""})
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


async def test_page_is_painted_after_one_answer(api: httpx.AsyncClient) -> None:
    answer = await api.get("/")
    page = answer.text
    assert "stylesheet" not in page and "<script src" not in page
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style == (FOLDER / "style.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in answer.headers["content-security-policy"]
    again = await api.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


def test_page_names_every_module_that_it_begins_with() -> None:
    """One that is not named is asked for only after the module that imports it has come."""
    page = (FOLDER / "index.html").read_text()
    named = {"main.js", *re.findall(r'modulepreload" href="/assets/([a-z]+\.js)"', page)}
    imports = re.compile(r'^import .* from "\./([a-z]+\.js)"', re.MULTILINE)
    imported = {one for name in named for one in imports.findall((FOLDER / name).read_text())}
    assert imported | {"main.js"} == named


@pytest.mark.parametrize("name", sorted(load_assets()))
async def test_every_file_is_served_once_and_then_only_when_it_changes(api: httpx.AsyncClient, name: str) -> None:
    answer = await api.get(f"/assets/{name}", headers={"Authorization": ""})
    assert answer.status_code == 200 and answer.content == (FOLDER / name).read_bytes()
    again = await api.get(f"/assets/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpages.py", "%2e%2e/pages.py", "sessions.py", "", "index.html/x"])
async def test_other_files_are_404(api: httpx.AsyncClient, name: str) -> None:
    answer = await api.get(f"/assets/{name}")
    assert answer.status_code == 404


def test_all_files_together_weigh_little() -> None:
    assert sum(len(asset.plain) for asset in load_assets().values()) <= MOST_BYTES
    for asset in load_assets().values():
        assert gzip.decompress(asset.packed) == asset.plain


def test_files_name_no_other_host_and_build_no_markup() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(", text
        ), path
        if path.suffix == ".html":
            assert not re.search(r"<style|<script>|\son[a-z]+=|style=", text)
