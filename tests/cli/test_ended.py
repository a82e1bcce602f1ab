"""What has ended without being asked to: `bouchet status` goes on telling, and its name still leads to it."""

from __future__ import annotations

import json

from bouchet_core.deployments import Ending, Phase

from .conftest import Bouchet, advance, end

QWEN, ALIAS = "Qwen/Qwen3-32B", "bouchet-qwen3-32b"
IDLE = "idle for 45 min; `bouchet launch Qwen/Qwen3-32B` brings it back in about 90 s (warm)"


def launched(bouchet: Bouchet, *words: str) -> str:
    made = json.loads(bouchet("launch", QWEN, *words, "--no-wait", "--json").out)
    advance(bouchet.store, made["id"], Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY)
    return str(made["id"])


def test_an_idle_end_is_told_beside_what_runs(bouchet: Bouchet) -> None:
    end(bouchet.store, launched(bouchet), Ending.IDLE, IDLE)
    launched(bouchet, "--name", "bouchet-other")
    end(bouchet.store, launched(bouchet, "--name", "bouchet-third"), Ending.CANCELLED, "cancelled as asked")
    told = " ".join(bouchet("status").out.split())
    assert f"{ALIAS} ended" in told and "brings it back in about 90 s (warm)" in told
    assert "bouchet-third" not in told, "its end was asked for"
    assert [d["names"][0] for d in json.loads(bouchet("status", "--json").out)["deployments"]] == ["bouchet-other"]


def test_a_new_one_of_that_name_replaces_it(bouchet: Bouchet) -> None:
    end(bouchet.store, launched(bouchet), Ending.IDLE, IDLE)
    launched(bouchet)
    assert "idle for 45 min" not in bouchet("status").out


def test_the_name_of_an_ended_one_leads_to_it(bouchet: Bouchet) -> None:
    end(bouchet.store, launched(bouchet), Ending.FAILED, "out of memory")
    end(bouchet.store, launched(bouchet), Ending.IDLE, IDLE)
    told = bouchet("status", ALIAS).out
    assert told.startswith(f"{ALIAS}  ended") and "idle for 45 min" in told, "the newest"
    unknown = bouchet("status", "nobody")
    assert unknown.status != 0 and "no deployment 'nobody'" in unknown.err
    alive = launched(bouchet)
    assert json.loads(bouchet("status", ALIAS, "--json").out)["id"] == alive
