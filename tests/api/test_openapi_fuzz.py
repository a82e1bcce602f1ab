"""Schemathesis over openapi.json, all methods: no server error, and no answer that differs from the document.

`make soak` runs it for twenty minutes, with a new seed each time (tests/soak/api_fuzz.py).
"""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.soak.api_fuzz import MODEL, PROGRAM, fuzz

SHORT_S = 100.0
STREAMS = ("/v1/events", "/v1/deployments/{name}/events", "/v1/deployments/{name}/logs")
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
NAMES = st.text(min_size=1, max_size=40)
HEADERS = st.sampled_from(["", "0", "0-0", "9" * 19]) | st.text(PRINTABLE, max_size=25).map(str.strip)
QUERIES = st.dictionaries(st.sampled_from(["after", "tail", "follow"]), st.text(max_size=25))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_api_answers_as_its_document_says() -> None:
    assert PROGRAM.exists(), "`make tools` installs schemathesis"
    passed, output = fuzz(SHORT_S)
    assert passed, output


@FIXTURE
@given(path=st.sampled_from(STREAMS), name=NAMES, query=QUERIES, last=HEADERS)
def test_stream_of_any_parameters_is_no_server_error(
    client: httpx.Client, path: str, name: str, query: dict[str, str], last: str
) -> None:
    url = path.format(name=quote(name))
    with client.stream("GET", url, params=query, headers={"Last-Event-ID": last}) as response:
        assert response.status_code < 500


async def test_method_not_allowed_names_all_methods_of_the_path(api: httpx.AsyncClient) -> None:
    for path, methods in {"/v1/keys": "GET, POST", "/healthz": "GET", "/v1/keys/alice": "DELETE"}.items():
        response = await api.request("OPTIONS", path)
        assert (response.status_code, response.headers["allow"]) == (405, methods)


async def test_number_is_whole_and_no_text(api: httpx.AsyncClient) -> None:
    for value, status in ((2.0, 202), ("2", 422), (True, 422), (1.5, 422)):
        name = f"n{status}-{value}".lower()
        response = await api.post("/v1/deployments", json={"model": MODEL, "name": name, "gpus": value})
        assert response.status_code == status, response.text
