"""The environment in which Claude Code talks to a deployment. Pure.

Claude Code takes unknown models for ones with a window of 1,000,000 tokens unless it is told.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from bouchet_cli.client.records import Deployment

Shell = Literal["posix", "fish"]

# long prompts on a busy GPU: minutes until the first token
REQUEST_TIMEOUT_MS = 1_800_000
# Claude Code 2.1 sends 17,000 to 24,000 tokens before the first word of its user
COMFORTABLE_WINDOW = 64_000
# it compacts the conversation this many tokens before window minus answer
COMPACTION_MARGIN = 13_000
LONGEST_RESERVED_ANSWER = 20_000
# an answer may take this part of the window, so that a conversation fits beside it
ANSWER_SHARE = 4
TIERS = ("opus", "sonnet", "haiku")
# Claude Code's options for a model whose tools do not work
CHAT_ALONE = ("--tools", "", "--strict-mcp-config")

# Variables that send Claude Code elsewhere, or describe another model.
FOREIGN_PREFIXES = ("ANTHROPIC_", "CLAUDE_CODE_USE_", "CLAUDE_CODE_SKIP_", "VERTEX_REGION_")
FOREIGN_NAMES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "AWS_BEARER_TOKEN_BEDROCK",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW",
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
    chosen: Deployment, window: int, proxy_url: str, key: str, ready: Iterable[Deployment] = ()
) -> dict[str, str]:
    """The variables to set. Tiers that another ready deployment serves (`--as haiku`) go there."""
    tiers = dict.fromkeys(TIERS, chosen.alias)
    others = [deployment for deployment in ready if deployment.id != chosen.id]
    for other in others:
        tiers.update(dict.fromkeys((tier for tier in other.serve_as if tier not in chosen.serve_as), other.alias))
    used = [other.job.window for other in others if other.alias in tiers.values() and other.job.window]
    smallest = min([window, *used])  # there is one variable for all tiers
    return {
        "ANTHROPIC_BASE_URL": proxy_url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_MODEL": chosen.alias,
        **{f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL": alias for tier, alias in tiers.items()},
        # the tier above opus, which no deployment is launched for
        "ANTHROPIC_DEFAULT_FABLE_MODEL": chosen.alias,
        "CLAUDE_CODE_SUBAGENT_MODEL": chosen.alias,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(smallest),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(answer_tokens(chosen, smallest)),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
        "API_TIMEOUT_MS": str(REQUEST_TIMEOUT_MS),
    }


def answer_tokens(chosen: Deployment, window: int) -> int:
    """The longest answer to ask for."""
    return max(1, min(chosen.max_output, window // ANSWER_SHARE))


def foreign_variables(inherited: Iterable[str], ours: Mapping[str, str]) -> list[str]:
    """Names to remove: the well-known ones and every inherited one of their kind, without those we set."""
    alike = {name for name in inherited if name.startswith(FOREIGN_PREFIXES)}
    return sorted(alike.union(FOREIGN_NAMES) - ours.keys())


def scrubbed(inherited: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The inherited environment with ours in the place of what is foreign."""
    foreign = set(foreign_variables(inherited, ours))
    return {**{name: value for name, value in inherited.items() if name not in foreign}, **ours}


def settings_block(ours: Mapping[str, str]) -> dict[str, str]:
    """The `env` of a settings file that outranks the user's own: ours, and nothing in the place of what is foreign."""
    return {**dict.fromkeys(foreign_variables((), ours), ""), **ours}


def window_warning(window: int, answer: int) -> str | None:
    """Why Claude Code will not be comfortable in this window, None if it will."""
    if window >= COMFORTABLE_WINDOW:
        return None
    room = max(0, window - min(answer, LONGEST_RESERVED_ANSWER) - COMPACTION_MARGIN)
    return (
        f"the window is {window:,} tokens: Claude Code's first request alone takes 17,000 to 24,000, and it compacts "
        f"at about {room:,}; a model with {COMFORTABLE_WINDOW:,} or more suits it better"
    )


def tools_warning(without_tools: str) -> str | None:
    """What a model whose tools do not work is good for, None where they do."""
    if not without_tools:
        return None
    return (
        f"its tools do not work ({without_tools}): it can chat, and neither read nor change files. `bouchet` starts "
        f"Claude Code without tools then; by hand it is `claude {shlex.join(CHAT_ALONE)}`, or every request is refused"
    )


def chat_alone(without_tools: str, arguments: Sequence[str]) -> list[str]:
    """Claude Code's options for a model without tools; none where it has them, or the user chose tools."""
    chosen = any(word == "--tools" or word.startswith("--tools=") for word in arguments)
    return list(CHAT_ALONE) if without_tools and not chosen else []


def name_warning(alias: str) -> str | None:
    """Why Claude Code will misjudge a deployment of that name, None if it will not."""
    if not alias.startswith("claude-"):
        return None
    return (
        f"{alias} begins with claude-: Claude Code then believes its own table instead of the real window and compacts "
        "too late; launch it under another name (--name)"
    )


def shell_lines(ours: Mapping[str, str], foreign: Sequence[str], shell: Shell) -> list[str]:
    """Lines for `eval`."""
    if shell == "fish":
        quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in ours.items()}
        return [*(f"set -e {name};" for name in foreign), *(f"set -gx {n} '{value}';" for n, value in quoted.items())]
    return [f"unset {' '.join(foreign)}", *(f"export {name}={shlex.quote(value)}" for name, value in ours.items())]
