"""What other clients want to be told to reach a deployment: a piece of configuration each. Pure.

No piece holds the key: a client reads it from BOUCHET_API_KEY, or from the variable it insists on. Which versions were
tried with them stands in docs/clients.md.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PROVIDER = "bouchet"
KEY_VARIABLE = "BOUCHET_API_KEY"


@dataclass(frozen=True)
class Target:
    """A deployment as clients are told of it. window and answer: tokens; url: of the proxy, without a path.

    program: how `bouchet` is called from anywhere."""

    name: str
    url: str
    window: int
    answer: int
    tools: bool
    vision: bool
    program: str

    def exported_key(self, variable: str = KEY_VARIABLE) -> str:
        """A shell's line that puts the key into a variable without showing it."""
        return f'export {variable}="$({shlex.quote(self.program)} env --for key)"'

    @property
    def openai_url(self) -> str:
        """Where OpenAI's dialect begins."""
        return f"{self.url}/v1"


@dataclass(frozen=True)
class Client:
    """place: where the piece belongs, '' for lines to evaluate; comment: what begins one there, '' where none can."""

    about: str
    place: str
    comment: str
    piece: Callable[[Target], str]


def snippet(client: Client, target: Target) -> str:
    """The piece, headed by where it goes and how the client gets the key."""
    if not client.place or not client.comment:
        return client.piece(target)
    head = (f"goes into {client.place}; and in the shell that starts it:", target.exported_key())
    return "\n".join([*(f"{client.comment} {line}" for line in head), client.piece(target)])


def advice(client: Client, target: Target) -> str | None:
    """What the head would say, for a piece that can hold no comment."""
    if client.comment:
        return None
    return f"goes into {client.place}; and in the shell that starts it: {target.exported_key()}"


def _codex(target: Target) -> str:
    return "\n".join(
        [
            f"model = {_quoted(target.name)}",
            f'model_provider = "{PROVIDER}"',
            f"model_context_window = {target.window}",
            'web_search = "disabled"',
            "",
            f"[model_providers.{PROVIDER}]",
            'name = "bouchet-llm"',
            f"base_url = {_quoted(target.openai_url)}",
            f'env_key = "{KEY_VARIABLE}"',
            'wire_api = "responses"',
            "stream_idle_timeout_ms = 900000",
        ]
    )


def _opencode(target: Target) -> str:
    model = {
        "name": target.name,
        "tool_call": target.tools,
        "attachment": target.vision,
        "limit": {"context": target.window, "output": target.answer},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "bouchet-llm",
        "options": {"baseURL": target.openai_url, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {target.name: model},
    }
    chosen = f"{PROVIDER}/{target.name}"
    schema = "https://opencode.ai/config.json"
    whole = {"$schema": schema, "provider": {PROVIDER: provider}, "model": chosen, "small_model": chosen}
    return json.dumps(whole, indent=2)


def _aider(target: Target) -> str:
    """aider asks LiteLLM, which takes address and key of `openai/` models from OPENAI_* variables."""
    facts = {"max_input_tokens": target.window, "max_output_tokens": target.answer, "litellm_provider": "openai"}
    metadata = {f"openai/{target.name}": {**facts, "input_cost_per_token": 0, "output_cost_per_token": 0}}
    return "\n".join(
        [
            f"export OPENAI_API_BASE={shlex.quote(target.openai_url)}",
            target.exported_key("OPENAI_API_KEY"),
            f"export AIDER_MODEL={shlex.quote(f'openai/{target.name}')}",
            'export AIDER_MODEL_METADATA_FILE="${XDG_CACHE_HOME:-$HOME/.cache}/bouchet-aider.json"',
            'mkdir -p "${AIDER_MODEL_METADATA_FILE%/*}"',
            f"printf '%s\\n' {shlex.quote(json.dumps(metadata))} > \"$AIDER_MODEL_METADATA_FILE\"",
        ]
    )


def _continue(target: Target) -> str:
    capabilities = [word for word, has in (("tool_use", target.tools), ("image_input", target.vision)) if has]
    return "\n".join(
        [
            "name: bouchet-llm",
            "version: 0.0.1",
            "schema: v1",
            "models:",
            f"  - name: {_quoted(target.name)}",
            "    provider: openai",
            f"    model: {_quoted(target.name)}",
            f"    apiBase: {_quoted(target.openai_url)}",
            f"    apiKey: ${{{{ secrets.{KEY_VARIABLE} }}}}",
            "    roles: [chat, edit, apply]",
            f"    capabilities: [{', '.join(capabilities)}]",
            "    defaultCompletionOptions:",
            f"      contextLength: {target.window}",
            f"      maxTokens: {target.answer}",
        ]
    )


def _openai(target: Target) -> str:
    return "\n".join(
        [
            f"export OPENAI_BASE_URL={shlex.quote(target.openai_url)}",
            target.exported_key("OPENAI_API_KEY"),
            f"export OPENAI_MODEL={shlex.quote(target.name)}",
        ]
    )


def _anthropic(target: Target) -> str:
    return "\n".join(
        [
            f"export ANTHROPIC_BASE_URL={shlex.quote(target.url)}",
            target.exported_key("ANTHROPIC_API_KEY"),
            f"export ANTHROPIC_MODEL={shlex.quote(target.name)}",
        ]
    )


def _litellm(target: Target) -> str:
    return "\n".join(
        [
            "model_list:",
            f"  - model_name: {_quoted(target.name)}",
            "    litellm_params:",
            f"      model: {_quoted(f'hosted_vllm/{target.name}')}",
            f"      api_base: {_quoted(target.openai_url)}",
            f"      api_key: os.environ/{KEY_VARIABLE}",
            "    model_info:",
            f"      max_input_tokens: {target.window}",
            f"      max_output_tokens: {target.answer}",
        ]
    )


def _quoted(text: str) -> str:
    """A string as TOML, YAML and JSON all read it."""
    return json.dumps(text)


CLIENTS: Mapping[str, Client] = {
    "codex": Client("OpenAI's Codex", "~/.codex/config.toml", "#", _codex),
    "opencode": Client("opencode", "opencode.json of a project, or ~/.config/opencode/opencode.json", "", _opencode),
    "aider": Client("aider", "", "#", _aider),
    "continue": Client("Continue", "~/.continue/config.yaml", "#", _continue),
    "openai": Client("programs with OpenAI's SDK", "", "#", _openai),
    "anthropic": Client("programs with Anthropic's SDK", "", "#", _anthropic),
    "litellm": Client("LiteLLM elsewhere", "its config.yaml", "#", _litellm),
}
