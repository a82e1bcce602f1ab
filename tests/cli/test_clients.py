"""What `bouchet env --for` prints: what each client's own reader makes of it."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from bouchet_cli.integrations.snippets import CLIENTS, Target, snippet
from bouchet_core.deployments import Phase

from tests.cli.conftest import Bouchet, advance
from tests.fakes.running_api import KEY

TARGET = Target("tiny", "http://127.0.0.1:4000", 65_536, 8192, True, False, "/opt/my tools/bouchet")
URL = "http://127.0.0.1:4000/v1"


def exported(text: str, home: Path) -> dict[str, str]:
    """The variables that a shell has after these lines; `bouchet` answers "the key"."""
    program = home / "bouchet"
    program.write_text("#!/bin/sh\necho the key: $*\n")
    program.chmod(0o755)
    script = text.replace("'/opt/my tools/bouchet'", str(program)) + "\nenv -0"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(["sh", "-eu", "-c", script], env=environment, capture_output=True, timeout=60, check=True)
    return dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if "=" in item)


def test_codex() -> None:
    read = tomllib.loads(snippet(CLIENTS["codex"], TARGET))
    provider = read["model_providers"][read["model_provider"]]
    assert (read["model"], read["model_context_window"]) == ("tiny", 65_536)
    assert (provider["base_url"], provider["wire_api"], provider["env_key"]) == (URL, "responses", "BOUCHET_API_KEY")


def test_opencode() -> None:
    read = json.loads(snippet(CLIENTS["opencode"], TARGET))
    provider, _, model = read["model"].partition("/")
    assert read["provider"][provider]["options"] == {"baseURL": URL, "apiKey": "{env:BOUCHET_API_KEY}"}
    assert read["provider"][provider]["models"][model]["limit"] == {"context": 65_536, "output": 8192}


def test_continue_and_litellm() -> None:
    (model,) = yaml.safe_load(snippet(CLIENTS["continue"], TARGET))["models"]
    assert (model["apiBase"], model["apiKey"]) == (URL, "${{ secrets.BOUCHET_API_KEY }}")
    assert model["capabilities"] == ["tool_use"]
    (entry,) = yaml.safe_load(snippet(CLIENTS["litellm"], TARGET))["model_list"]
    assert entry["litellm_params"]["api_key"] == "os.environ/BOUCHET_API_KEY"


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        ("openai", {"OPENAI_BASE_URL": URL, "OPENAI_API_KEY": "the key: env --for key", "OPENAI_MODEL": "tiny"}),
        ("anthropic", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4000", "ANTHROPIC_API_KEY": "the key: env --for key"}),
        ("aider", {"OPENAI_API_BASE": URL, "AIDER_MODEL": "openai/tiny"}),
    ],
)
def test_lines_for_a_shell(client: str, wanted: dict[str, str], tmp_path: Path) -> None:
    found = exported(snippet(CLIENTS[client], TARGET), tmp_path)
    assert wanted.items() <= found.items()
    if client == "aider":
        facts: Any = json.loads(Path(found["AIDER_MODEL_METADATA_FILE"]).read_text())
        assert facts["openai/tiny"]["max_input_tokens"] == 65_536


@pytest.mark.parametrize("client", CLIENTS)
def test_no_piece_holds_the_key(bouchet: Bouchet, client: str) -> None:
    made = json.loads(bouchet("launch", "Qwen/Qwen3-32B", "--no-wait", "--json").out)
    advance(bouchet.store, made["id"], Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY)
    done = bouchet("env", "--for", client)
    assert done.status == 0, done.err
    assert KEY not in done.out + done.err
    assert "bouchet-qwen3-32b" in done.out
    shown = json.loads(bouchet("env", "--for", client, "--json").out)
    assert shown["text"] == done.out.removesuffix("\n")


def test_the_key_alone(bouchet: Bouchet) -> None:
    assert bouchet("env", "--for", "key").out == f"{KEY}\n"
