"""The state that handlers share."""

from __future__ import annotations

from pathlib import Path

import httpx

CATALOG_URL = "/v1/models?refresh=false"


async def test_edited_catalog_counts_from_the_next_request_on(api: httpx.AsyncClient, tmp_path: Path) -> None:
    catalog = tmp_path / "models.yaml"
    catalog.write_text("models:\n  a/b: {alias: new, window: 4096}\n")
    body = (await api.get(CATALOG_URL)).json()
    assert [model["id"] for model in body["models"]] == ["a/b"]


async def test_broken_catalog_is_named_with_its_line(api: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models:\n  a/b: {alias: new, windou: 4096}\n")
    answer = await api.get(CATALOG_URL)
    assert (answer.status_code, answer.json()["kind"]) == (500, "configuration")
    assert "models.yaml:2" in answer.json()["detail"]


async def test_missing_catalog_is_a_configuration_error(api: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").unlink()
    answer = await api.get(CATALOG_URL)
    assert (answer.status_code, answer.json()["kind"]) == (500, "configuration")
