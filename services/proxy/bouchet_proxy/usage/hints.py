"""What a request says of itself in its headers: its class, the agent that made it, and the program. Never its content.

Claude Code sends class and agent with CLAUDE_CODE_GATEWAY_HINT_HEADERS=1. Whatever a client invents is cut down here:
the ledger keeps sums for each value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bouchet_proxy.asgi import Scope, header

CLASS_HEADER, AGENT_HEADER = b"x-claude-code-request-class", b"x-claude-code-agent-type"
CLASSES = frozenset({"main", "subagent", "workflow", "compaction", "auxiliary", "side_reply"})
OTHER = "other"
# of agents with a name of their own, beyond which they are summed as OTHER
MAX_AGENTS = 200
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:-]{0,39}")
# how a program's user agent begins -> its name in the ledger
CLIENTS = (
    ("claude-cli", "claude-code"),
    ("claude-code", "claude-code"),
    ("codex", "codex"),
    ("Anthropic/", "anthropic-sdk"),
    ("AsyncAnthropic/", "anthropic-sdk"),
    ("OpenAI/", "openai-sdk"),
    ("AsyncOpenAI/", "openai-sdk"),
    ("opencode", "opencode"),
    ("aider", "aider"),
    ("litellm", "litellm"),
    ("bouchet", "bouchet"),
    ("curl/", "curl"),
    ("python-requests/", "python"),
    ("python-httpx/", "python"),
    ("Python-urllib/", "python"),
    ("Mozilla/", "browser"),
)


@dataclass(frozen=True, slots=True)
class Hints:
    """Class, agent and program of a request; empty where it does not say."""

    request_class: str = ""
    agent: str = ""
    client: str = ""


_agents: set[str] = set()


def read_hints(scope: Scope) -> Hints:
    """Read the hints of a request."""
    request_class = _text(header(scope, CLASS_HEADER))
    return Hints(
        request_class=request_class if request_class in CLASSES else (OTHER if request_class else ""),
        agent=_known_agent(_text(header(scope, AGENT_HEADER))),
        client=_client_of(_text(header(scope, b"user-agent"))),
    )


def _known_agent(name: str) -> str:
    """Return the agent's name, OTHER for an odd one or one too many."""
    if not name or name in _agents:
        return name
    if not _AGENT.fullmatch(name) or len(_agents) >= MAX_AGENTS:
        return OTHER
    _agents.add(name)
    return name


def _client_of(user_agent: str) -> str:
    if not user_agent:
        return ""
    return next((name for prefix, name in CLIENTS if user_agent.startswith(prefix)), OTHER)


def _text(value: bytes | None) -> str:
    return value.decode("latin-1").strip() if value else ""
