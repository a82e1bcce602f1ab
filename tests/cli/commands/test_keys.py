"""`bouchet keys` and `bouchet usage`."""

from __future__ import annotations

import json
import time

import pytest
from bouchet_core.keys import sha256_of
from bouchet_core.usage import UsageRecord

from tests.cli.harness import Bouchet, one_line_error


def test_keys_add_prints_only_the_key_on_stdout(bouchet: Bouchet) -> None:
    options = "--requests-per-minute 60 --tokens-per-minute 200000 --expires 30d"
    done = bouchet("keys", "add", "alice", *options.split())
    assert done.status == 0, done.err
    (kept,) = bouchet.store.api_keys.all()
    assert kept.sha256 == sha256_of(done.out.strip())
    assert (kept.name, kept.requests_per_minute, kept.tokens_per_minute) == ("alice", 60, 200_000)
    assert done.out.strip() not in done.err


def test_keys_list_shows_expiry_and_no_secret(bouchet: Bouchet) -> None:
    assert "keys add HOLDER" in bouchet("keys").out
    key = json.loads(bouchet("keys", "add", "bob", "--expires", "2h", "--json").out)["key"]
    listed = bouchet("keys", "list").out
    assert "bob" in listed and "in 1h59m" in listed and key not in listed
    assert json.loads(bouchet("keys", "list", "--json").out)["keys"][0]["name"] == "bob"


def test_keys_revoke_works_once(bouchet: Bouchet) -> None:
    bouchet("keys", "add", "bob")
    assert bouchet("keys", "revoke", "bob").status == 0
    assert bouchet.store.api_keys.all() == []
    assert one_line_error(bouchet("keys", "revoke", "bob"), 3)


@pytest.mark.parametrize(
    ("arguments", "status", "option"),
    [
        (("add",), 2, "HOLDER"),
        (("add", "x", "--tokens-per-minute", "many"), 2, "--tokens-per-minute"),
        (("lend", "x"), 2, "lend"),
        (("add", "Not A Name"), 2, "HOLDER: "),
        (("add", "x", "--expires", "soon"), 2, "--expires: "),
    ],
)
def test_keys_mistake_is_one_line_with_the_option(
    bouchet: Bouchet, arguments: tuple[str, ...], status: int, option: str
) -> None:
    done = bouchet("keys", *arguments)
    assert one_line_error(done, status) and option in done.err
    assert bouchet.store.api_keys.all() == []


def test_usage_is_a_table_by_key_or_model(bouchet: Bouchet) -> None:
    assert bouchet("usage").status == 0
    record = UsageRecord(
        at=time.time(), key="alice", model="org/Tiny", session="", deployment="d1", endpoint="/v1/messages", status=200,
        error="", input=4000, cached=12_000, output=500, first_ms=340, generating_ms=10_000,
    )  # fmt: skip
    bouchet.store.usage.add([record])
    table = bouchet("usage").out
    assert all(cell in table for cell in ("KEY", "alice", "4.50k", "75%", "340ms", "50"))
    assert "org/Tiny" in bouchet("usage", "--by", "model", "--since", "7d").out
    assert json.loads(bouchet("usage", "--json").out)["lines"][0]["output_tokens"] == 500


def test_usage_since_a_wrong_span_names_the_option(bouchet: Bouchet) -> None:
    done = bouchet("usage", "--since", "yesterday")
    assert one_line_error(done, 2) and "--since" in done.err
