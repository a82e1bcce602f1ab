"""Configuration snippets with which other clients use a deployment. Pure.

No snippet holds the key: a client reads it from BOUCHET_API_KEY, or from the variable that it requires. docs/clients.md
lists the tested versions.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PROVIDER = "bouchet"
KEY_VARIABLE = "BOUCHET_API_KEY"
# what Gemini CLI takes for the window of a model that it does not know, in tokens
GEMINI_WINDOW = 1_048_576
# the share of the window at which it compacts: its next request, and the summary, have to fit as well
COMPACT_AT = 0.6


@dataclass(frozen=True)
class SnippetValues:
    """A deployment as clients see it."""

    model: str
    # of the proxy, without a path
    url: str
    # tokens
    window: int
    max_answer: int
    tools: bool
    vision: bool
    # path of `bouchet`
    program: str

    def key_export(self, variable: str = KEY_VARIABLE) -> str:
        """Return a shell line that sets a variable to the key without showing the key."""
        return f'export {variable}="$({shlex.quote(self.program)} env --for key)"'

    @property
    def openai_url(self) -> str:
        """Base URL of the OpenAI API."""
        return f"{self.url}/v1"


@dataclass(frozen=True)
class ClientSnippet:
    """A client and its snippet."""

    about: str
    # where the snippet belongs; empty for shell lines to evaluate
    file: str
    # what begins a comment in that file; empty if it has no comments
    comment: str
    render: Callable[[SnippetValues], str]
    # from which the client takes the key
    key_variable: str = KEY_VARIABLE


def snippet(client: ClientSnippet, values: SnippetValues) -> str:
    """Return the snippet, after a comment on where it belongs and how the client gets the key."""
    if not client.file or not client.comment:
        return client.render(values)
    comments = (
        f"add to {client.file}; and in the shell that starts the client:",
        values.key_export(client.key_variable),
    )
    return "\n".join([*(f"{client.comment} {line}" for line in comments), client.render(values)])


def placement_note(client: ClientSnippet, values: SnippetValues) -> str | None:
    """Return the text of that comment for a file that has no comments."""
    if client.comment:
        return None
    export = values.key_export(client.key_variable)
    return f"add to {client.file}; and in the shell that starts the client: {export}"


def _codex(values: SnippetValues) -> str:
    return "\n".join(
        [
            f"model = {_quoted(values.model)}",
            f'model_provider = "{PROVIDER}"',
            f"model_context_window = {values.window}",
            'web_search = "disabled"',
            "",
            f"[model_providers.{PROVIDER}]",
            'name = "bouchet-llm"',
            f"base_url = {_quoted(values.openai_url)}",
            f'env_key = "{KEY_VARIABLE}"',
            'wire_api = "responses"',
            "stream_idle_timeout_ms = 900000",
        ]
    )


def _opencode(values: SnippetValues) -> str:
    model = {
        "name": values.model,
        "tool_call": values.tools,
        "attachment": values.vision,
        "limit": {"context": values.window, "output": values.max_answer},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "bouchet-llm",
        "options": {"baseURL": values.openai_url, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {values.model: model},
    }
    chosen = f"{PROVIDER}/{values.model}"
    schema = "https://opencode.ai/config.json"
    config = {"$schema": schema, "provider": {PROVIDER: provider}, "model": chosen, "small_model": chosen}
    return json.dumps(config, indent=2)


def _aider(values: SnippetValues) -> str:
    """Return shell lines for aider. Its LiteLLM reads address and key of `openai/` models from OPENAI_* variables."""
    facts = {"max_input_tokens": values.window, "max_output_tokens": values.max_answer, "litellm_provider": "openai"}
    metadata = {f"openai/{values.model}": {**facts, "input_cost_per_token": 0, "output_cost_per_token": 0}}
    return "\n".join(
        [
            f"export OPENAI_API_BASE={shlex.quote(values.openai_url)}",
            values.key_export("OPENAI_API_KEY"),
            f"export AIDER_MODEL={shlex.quote(f'openai/{values.model}')}",
            'export AIDER_MODEL_METADATA_FILE="${XDG_CACHE_HOME:-$HOME/.cache}/bouchet-aider.json"',
            'mkdir -p "${AIDER_MODEL_METADATA_FILE%/*}"',
            f"printf '%s\\n' {shlex.quote(json.dumps(metadata))} > \"$AIDER_MODEL_METADATA_FILE\"",
        ]
    )


def _continue(values: SnippetValues) -> str:
    features = (("tool_use", values.tools), ("image_input", values.vision))
    capabilities = [name for name, available in features if available]
    return "\n".join(
        [
            "name: bouchet-llm",
            "version: 0.0.1",
            "schema: v1",
            "models:",
            f"  - name: {_quoted(values.model)}",
            "    provider: openai",
            f"    model: {_quoted(values.model)}",
            f"    apiBase: {_quoted(values.openai_url)}",
            f"    apiKey: ${{{{ secrets.{KEY_VARIABLE} }}}}",
            "    roles: [chat, edit, apply]",
            f"    capabilities: [{', '.join(capabilities)}]",
            "    defaultCompletionOptions:",
            f"      contextLength: {values.window}",
            f"      maxTokens: {values.max_answer}",
        ]
    )


def _openai(values: SnippetValues) -> str:
    return "\n".join(
        [
            f"export OPENAI_BASE_URL={shlex.quote(values.openai_url)}",
            values.key_export("OPENAI_API_KEY"),
            f"export OPENAI_MODEL={shlex.quote(values.model)}",
        ]
    )


def _anthropic(values: SnippetValues) -> str:
    return "\n".join(
        [
            f"export ANTHROPIC_BASE_URL={shlex.quote(values.url)}",
            values.key_export("ANTHROPIC_API_KEY"),
            f"export ANTHROPIC_MODEL={shlex.quote(values.model)}",
        ]
    )


def _claude_settings(values: SnippetValues) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": values.url,
        "ANTHROPIC_MODEL": values.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": values.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": values.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": values.model,
        "CLAUDE_CODE_SUBAGENT_MODEL": values.model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(values.window),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(values.max_answer),
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def _vscode(values: SnippetValues) -> str:
    """Return the settings of Claude Code's extension, which takes the key from the environment of the editor."""
    variables = [{"name": name, "value": value} for name, value in _claude_settings(values).items()]
    return json.dumps({"claudeCode.environmentVariables": variables, "claudeCode.disableLoginPrompt": True}, indent=2)


def _zed(values: SnippetValues) -> str:
    model = {
        "name": values.model,
        "max_tokens": values.window,
        "max_output_tokens": values.max_answer,
        "capabilities": {"tools": values.tools, "images": values.vision, "parallel_tool_calls": values.tools},
    }
    # Zed derives the variable of the key from the provider's name: BOUCHET_API_KEY
    provider = {PROVIDER: {"api_url": values.openai_url, "available_models": [model]}}
    chosen = {"provider": PROVIDER, "model": values.model}
    return json.dumps(
        {"language_models": {"openai_compatible": provider}, "agent": {"default_model": chosen}}, indent=2
    )


def _jetbrains(values: SnippetValues) -> str:
    """Return what to type into the settings page."""
    return "\n".join(
        [
            "Settings, Tools, AI Assistant, Models, Third-party AI providers: OpenAI-compatible",
            f"URL: {values.openai_url}",
            f"API key: the output of {shlex.quote(values.program)} env --for key",
            f"Model: {values.model}",
            f"Context window: {values.window}",
            f"Tool calling: {'on' if values.tools else 'off'}",
        ]
    )


def _open_webui(values: SnippetValues) -> str:
    """Return the variables of Open WebUI's server."""
    return "\n".join(
        [
            "export ENABLE_OPENAI_API=true ENABLE_OLLAMA_API=false",
            f"export OPENAI_API_BASE_URL={shlex.quote(values.openai_url)}",
            values.key_export("OPENAI_API_KEY"),
            f"export DEFAULT_MODELS={shlex.quote(values.model)}",
            # it has the title, tags and follow-ups of a chat written by the model
            f"export TASK_MODEL_EXTERNAL={shlex.quote(values.model)}",
        ]
    )


def _gemini(values: SnippetValues) -> str:
    """Return shell lines for Gemini CLI. It takes the kind of login and the point of compaction from a settings file.

    A home of its own leaves the person's files alone. It takes every model for one of a million tokens, and compacts at
    a share of that.
    """
    share = round(COMPACT_AT * values.window / GEMINI_WINDOW, 4)
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "model": {"name": values.model, "compressionThreshold": share},
        "privacy": {"usageStatisticsEnabled": False},
    }
    return "\n".join(
        [
            f"export GOOGLE_GEMINI_BASE_URL={shlex.quote(values.url)}",
            values.key_export("GEMINI_API_KEY"),
            f"export GEMINI_MODEL={shlex.quote(values.model)}",
            'export GEMINI_CLI_HOME="${XDG_CACHE_HOME:-$HOME/.cache}/bouchet-gemini"',
            'mkdir -p "$GEMINI_CLI_HOME/.gemini"',
            f"printf '%s\\n' {shlex.quote(json.dumps(settings))} > \"$GEMINI_CLI_HOME/.gemini/settings.json\"",
        ]
    )


def _jupyter(values: SnippetValues) -> str:
    """Return the lines for Jupyter AI, whose LiteLLM reads address and key from OPENAI_* variables."""
    return "\n".join(
        [
            f"export OPENAI_API_BASE={shlex.quote(values.openai_url)}",
            values.key_export("OPENAI_API_KEY"),
            f"# in the chat's settings, or as a magic: %%ai openai/{values.model}",
        ]
    )


def _litellm(values: SnippetValues) -> str:
    return "\n".join(
        [
            "model_list:",
            f"  - model_name: {_quoted(values.model)}",
            "    litellm_params:",
            f"      model: {_quoted(f'hosted_vllm/{values.model}')}",
            f"      api_base: {_quoted(values.openai_url)}",
            f"      api_key: os.environ/{KEY_VARIABLE}",
            "    model_info:",
            f"      max_input_tokens: {values.window}",
            f"      max_output_tokens: {values.max_answer}",
        ]
    )


def _quoted(text: str) -> str:
    """Return a string that TOML, YAML and JSON all parse."""
    return json.dumps(text)


CLIENTS: Mapping[str, ClientSnippet] = {
    "codex": ClientSnippet("OpenAI Codex", "~/.codex/config.toml", "#", _codex),
    "opencode": ClientSnippet(
        "opencode", "opencode.json in your project, or ~/.config/opencode/opencode.json", "", _opencode
    ),
    "aider": ClientSnippet("aider", "", "#", _aider),
    "continue": ClientSnippet("Continue", "~/.continue/config.yaml", "#", _continue),
    "vscode": ClientSnippet(
        "Claude Code's extension in VS Code", "VS Code's settings.json", "", _vscode, "ANTHROPIC_AUTH_TOKEN"
    ),
    "cursor": ClientSnippet(
        "Claude Code's extension in Cursor", "Cursor's settings.json", "", _vscode, "ANTHROPIC_AUTH_TOKEN"
    ),
    "zed": ClientSnippet("Zed", "~/.config/zed/settings.json", "", _zed),
    "jetbrains": ClientSnippet("JetBrains AI Assistant", "", "#", _jetbrains),
    "open-webui": ClientSnippet("Open WebUI", "", "#", _open_webui),
    "gemini": ClientSnippet("Gemini CLI", "", "#", _gemini),
    "jupyter": ClientSnippet("Jupyter AI", "", "#", _jupyter),
    "openai": ClientSnippet("programs that use the OpenAI SDK", "", "#", _openai),
    "anthropic": ClientSnippet("programs that use the Anthropic SDK", "", "#", _anthropic),
    "litellm": ClientSnippet("another LiteLLM proxy", "its config.yaml", "#", _litellm),
}
