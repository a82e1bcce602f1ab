"""Environment variables with which Claude Code uses a deployment. Pure.

Without them Claude Code assumes a window of 1,000,000 tokens for a model that it does not know.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from bouchet_cli.client.deployments import DeploymentInfo

Shell = Literal["posix", "fish"]

# a long prompt on a busy GPU takes minutes before its first token
REQUEST_TIMEOUT_MS = 1_800_000
# Claude Code 2.1 sends 17,000 to 24,000 tokens before the user's first message
MIN_COMFORTABLE_WINDOW = 64_000
# Claude Code compacts the conversation this many tokens before window minus answer
COMPACTION_MARGIN = 13_000
MAX_RESERVED_ANSWER = 20_000
# an answer may take one part in so many of the window
ANSWER_SHARE = 4
TIERS = ("opus", "sonnet", "haiku")
# Claude Code's options for a model whose tools do not work
NO_TOOLS = ("--tools", "", "--strict-mcp-config")

# Variables that make Claude Code use another provider, or that describe another model; and the key of the API, which
# what Claude Code runs must not have.
FOREIGN_PREFIXES = ("ANTHROPIC_", "CLAUDE_CODE_USE_", "CLAUDE_CODE_SKIP_", "VERTEX_REGION_")
FOREIGN_NAMES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "AWS_BEARER_TOKEN_BEDROCK",
    "BOUCHET_ADMIN_KEY",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
    "CLAUDE_CODE_EFFORT_LEVEL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
    "CLOUD_ML_REGION",
    "MAX_THINKING_TOKENS",
)


def claude_environment(
    chosen: DeploymentInfo, window: int, proxy_url: str, key: str, ready: Iterable[DeploymentInfo] = ()
) -> dict[str, str]:
    """Return the variables to set. A tier that another ready deployment serves (`--as haiku`) uses that one."""
    tiers = dict.fromkeys(TIERS, chosen.alias)
    others = [deployment for deployment in ready if deployment.id != chosen.id]
    for other in others:
        tiers.update(dict.fromkeys((tier for tier in other.serve_as if tier not in chosen.serve_as), other.alias))
    used = [other.job.window for other in others if other.alias in tiers.values() and other.job.window]
    smallest = min([window, *used])  # one variable applies to all tiers
    return {
        "ANTHROPIC_BASE_URL": proxy_url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_MODEL": chosen.alias,
        **{f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL": alias for tier, alias in tiers.items()},
        # the tier above opus, for which no deployment is launched
        "ANTHROPIC_DEFAULT_FABLE_MODEL": chosen.alias,
        "CLAUDE_CODE_SUBAGENT_MODEL": chosen.alias,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(smallest),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(answer_tokens(chosen, smallest)),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        # `/model` would offer its first row with a window of 1,000,000 tokens
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
        **tool_search_variables(chosen.tool_search),
        "API_TIMEOUT_MS": str(REQUEST_TIMEOUT_MS),
    }


def tool_search_variables(enabled: bool) -> dict[str, str]:
    """Return the variables for the client's tool search.

    With it Claude Code sends a dozen tools and loads others as it needs them, which is one of its experimental betas;
    without it, it sends all tools with every request.
    """
    if enabled:
        return {"ENABLE_TOOL_SEARCH": "true"}
    return {"ENABLE_TOOL_SEARCH": "false", "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1"}


def answer_tokens(chosen: DeploymentInfo, window: int) -> int:
    """Return the longest answer to request, in tokens."""
    return max(1, min(chosen.max_output, window // ANSWER_SHARE))


def foreign_variables(inherited: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """Return the names to remove: the known ones and inherited ones of their kind, except those in `own`."""
    same_kind = {name for name in inherited if name.startswith(FOREIGN_PREFIXES)}
    return sorted(same_kind.union(FOREIGN_NAMES) - own.keys())


def replace_foreign(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the inherited environment with `own` in place of the foreign variables."""
    foreign = set(foreign_variables(inherited, own))
    return {**{name: value for name, value in inherited.items() if name not in foreign}, **own}


def settings_block(own: Mapping[str, str]) -> dict[str, str]:
    """Return the `env` block of a settings file that overrides the user's: `own`, and foreign ones empty."""
    return {**dict.fromkeys(foreign_variables((), own), ""), **own}


def window_warning(window: int, answer: int) -> str | None:
    """Return a warning if the window is small for Claude Code."""
    if window >= MIN_COMFORTABLE_WINDOW:
        return None
    usable = max(0, window - min(answer, MAX_RESERVED_ANSWER) - COMPACTION_MARGIN)
    return (
        f"the context window is {window:,} tokens: Claude Code's first request takes 17,000 to 24,000 of them, and it "
        f"compacts the conversation at about {usable:,}; use a model with {MIN_COMFORTABLE_WINDOW:,} or more"
    )


def tools_warning(broken_tools: str) -> str | None:
    """Return a warning if the model's tools do not work. broken_tools: the reason, empty if they work."""
    if not broken_tools:
        return None
    return (
        f"tool calls do not work ({broken_tools}): the model can chat, but cannot read or change files; `bouchet` "
        f"starts Claude Code without tools, by hand use `claude {shlex.join(NO_TOOLS)}`"
    )


def without_tools(broken_tools: str, arguments: Sequence[str]) -> list[str]:
    """Return Claude Code's options for a model without tools; none if tools work or the user chose them."""
    chosen = any(argument == "--tools" or argument.startswith("--tools=") for argument in arguments)
    return list(NO_TOOLS) if broken_tools and not chosen else []


def name_warning(alias: str) -> str | None:
    """Return a warning if Claude Code will assume the wrong window for this name."""
    if not alias.startswith("claude-"):
        return None
    return (
        f"{alias} begins with claude-, so Claude Code uses the window in its own table instead of the real one, and "
        "compacts too late; launch it under another name (--name)"
    )


def shell_lines(own: Mapping[str, str], foreign: Sequence[str], shell: Shell) -> list[str]:
    """Return lines for `eval` that set `own` and unset `foreign`."""
    if shell == "fish":
        quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in own.items()}
        return [*(f"set -e {name};" for name in foreign), *(f"set -gx {n} '{value}';" for n, value in quoted.items())]
    return [f"unset {' '.join(foreign)}", *(f"export {name}={shlex.quote(value)}" for name, value in own.items())]
