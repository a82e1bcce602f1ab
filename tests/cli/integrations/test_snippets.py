"""Configuration snippets, read by what reads them in each client."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from bouchet_cli.integrations.snippets import CLIENTS, SnippetValues, placement_note, snippet

from tests.cli.harness import script

VALUES = SnippetValues("tiny", "http://127.0.0.1:4000", 65_536, 8192, True, False, "/opt/my tools/bouchet")
URL = "http://127.0.0.1:4000/v1"


def exported(text: str, home: Path) -> dict[str, str]:
    """Return the variables of a shell after these lines; `bouchet` prints "the key" and its arguments."""
    script(home / "bouchet", "echo the key: $*")
    lines = text.replace("'/opt/my tools/bouchet'", str(home / "bouchet")) + "\nenv -0"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(["sh", "-eu", "-c", lines], env=environment, capture_output=True, timeout=60, check=True)
    return dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if "=" in item)


def test_codex_snippet_is_toml() -> None:
    read = tomllib.loads(snippet(CLIENTS["codex"], VALUES))
    provider = read["model_providers"][read["model_provider"]]
    assert (read["model"], read["model_context_window"]) == ("tiny", 65_536)
    assert (provider["base_url"], provider["env_key"]) == (URL, "BOUCHET_API_KEY")
    assert "responses" in provider.values()


def test_opencode_snippet_is_json_and_its_note_is_apart_from_it() -> None:
    read = json.loads(snippet(CLIENTS["opencode"], VALUES))
    provider, _, model = read["model"].partition("/")
    assert read["provider"][provider]["options"] == {"baseURL": URL, "apiKey": "{env:BOUCHET_API_KEY}"}
    assert read["provider"][provider]["models"][model]["limit"] == {"context": 65_536, "output": 8192}
    assert "env --for key" in (placement_note(CLIENTS["opencode"], VALUES) or "")
    assert placement_note(CLIENTS["codex"], VALUES) is None


def test_continue_and_litellm_snippets_are_yaml() -> None:
    (model,) = yaml.safe_load(snippet(CLIENTS["continue"], VALUES))["models"]
    assert (model["apiBase"], model["apiKey"]) == (URL, "${{ secrets.BOUCHET_API_KEY }}")
    assert model["capabilities"] == ["tool_use"]
    (entry,) = yaml.safe_load(snippet(CLIENTS["litellm"], VALUES))["model_list"]
    assert entry["litellm_params"]["api_key"] == "os.environ/BOUCHET_API_KEY"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("open-webui", {"OPENAI_API_BASE_URL": URL, "OPENAI_API_KEY": "the key: env --for key"}),
        ("jupyter", {"OPENAI_API_BASE": URL, "OPENAI_API_KEY": "the key: env --for key"}),
        ("openai", {"OPENAI_BASE_URL": URL, "OPENAI_API_KEY": "the key: env --for key", "OPENAI_MODEL": "tiny"}),
        ("anthropic", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4000", "ANTHROPIC_API_KEY": "the key: env --for key"}),
        ("aider", {"OPENAI_API_BASE": URL, "AIDER_MODEL": "openai/tiny"}),
        ("gemini", {"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:4000", "GEMINI_API_KEY": "the key: env --for key"}),
    ],
)
def test_shell_snippet_exports_variables(client: str, expected: dict[str, str], tmp_path: Path) -> None:
    found = exported(snippet(CLIENTS[client], VALUES), tmp_path)
    assert expected.items() <= found.items()
    if client == "aider":
        limits: Any = json.loads(Path(found["AIDER_MODEL_METADATA_FILE"]).read_text())
        assert limits["openai/tiny"]["max_input_tokens"] == 65_536
    if client == "gemini":
        settings = json.loads((Path(found["GEMINI_CLI_HOME"]) / ".gemini/settings.json").read_text())
        assert settings["model"] == {"name": "tiny", "compressionThreshold": 0.0375}


@pytest.mark.parametrize("client", ["vscode", "cursor"])
def test_settings_of_claude_codes_extension_leave_the_key_to_the_environment(client: str) -> None:
    read = json.loads(snippet(CLIENTS[client], VALUES))
    variables = {one["name"]: one["value"] for one in read["claudeCode.environmentVariables"]}
    assert (variables["ANTHROPIC_BASE_URL"], variables["ANTHROPIC_MODEL"]) == ("http://127.0.0.1:4000", "tiny")
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert "export ANTHROPIC_AUTH_TOKEN=" in (placement_note(CLIENTS[client], VALUES) or "")


def test_zed_snippet_names_the_provider_after_the_variable_of_the_key() -> None:
    read = json.loads(snippet(CLIENTS["zed"], VALUES))
    provider = read["language_models"]["openai_compatible"]["bouchet"]
    assert provider["api_url"] == URL and provider["available_models"][0]["max_tokens"] == 65_536
    assert read["agent"]["default_model"] == {"provider": "bouchet", "model": "tiny"}
    assert "export BOUCHET_API_KEY=" in (placement_note(CLIENTS["zed"], VALUES) or "")


def test_jetbrains_text_has_address_and_model() -> None:
    text = snippet(CLIENTS["jetbrains"], VALUES)
    assert URL in text and "tiny" in text and "env --for key" in text
