"""The SSH connection as people see it, live with --watch, and the prompts of its login."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.http import Json
from bouchet_cli.client.records import PromptInfo, TunnelInfo

from .screen import Screen, StyledLine, clean, rich_text
from .tables import decimal_size, duration, plural

# round trip and traffic change without an event
REFRESH_S = 2.0
STATE_STYLE: Mapping[str, str] = {"up": "green", "needs_human": "bold yellow", "refused": "red", "down": "red"}
STATE_TEXT: Mapping[str, str] = {
    "up": "up",
    "down": "down, reconnecting",
    "connecting": "connecting",
    "needs_human": "needs your login, run `bouchet tunnel`",
    "refused": "refused",
}


def tunnel_line(tunnel: TunnelInfo, now: datetime) -> StyledLine:
    """Return the state of the SSH connection in one line."""
    line = StyledLine(f"tunnel to {clean(tunnel.host)}: ")
    line.append(STATE_TEXT.get(tunnel.state, tunnel.state), STATE_STYLE.get(tunnel.state, ""))
    line.append(f" for {duration((now - tunnel.since).total_seconds())}" if tunnel.state == "up" else "")
    line.append(f" ({clean(tunnel.detail)})" if tunnel.detail else "")
    waiting = int(tunnel.raw.get("waiting_requests") or 0)
    verb = "waits" if waiting == 1 else "wait"
    return line.append(f"; {plural(waiting, 'request')} {verb} for it", "yellow") if waiting else line


def tunnel_lines(tunnel: TunnelInfo, now: datetime) -> list[StyledLine]:
    """Return the state, and below it round trip, traffic, nodes, host key and reconnects."""
    return [tunnel_line(tunnel, now), *(StyledLine(f"  {text}", "dim") for text in _facts(tunnel))]


def watch_tunnel(api: ApiClient, screen: Screen) -> None:
    """Show the tunnel live until interrupted; without a terminal print a line for every change."""
    changes = _TunnelChanges(api)
    if not screen.out.is_terminal:
        _print_changes(api, screen, changes)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=screen.out.console, refresh_per_second=4, transient=False) as live:
        while True:
            live.update(Group(*(rich_text(line) for line in tunnel_lines(api.tunnel(), datetime.now(UTC)))))
            changes.wait()


def answer_prompt(api: ApiClient, prompt: PromptInfo, screen: Screen) -> None:
    """Ask the person the prompt's questions and send the answers. Secret answers are not echoed."""
    if prompt.host:
        screen.note(f"{clean(prompt.host)} asks:", "bold")
    if prompt.title:
        screen.note(prompt.title, "bold")
    responses = [_ask(clean(question), echo, screen) for question, echo in prompt.questions]
    try:
        api.answer(prompt.id, responses)
    except CommandError as exc:
        if exc.kind != "stale_prompt":
            raise
        screen.note("the prompt has expired; the login asks again")


def _ask(question: str, echo: bool, screen: Screen) -> str:
    text = question if question.endswith((" ", "\n")) else f"{question} "
    return screen.question(text) if echo else screen.secret(text)


class _TunnelChanges:
    """Wakes the watcher when the API sends a tunnel event."""

    def __init__(self, api: ApiClient) -> None:
        self._api, self._changed = api, threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self) -> None:
        """Wait for the next change, at most REFRESH_S."""
        self._changed.wait(REFRESH_S)
        self._changed.clear()

    def _listen(self) -> None:
        while True:
            try:
                for message in self._api.events():
                    if message.event == "tunnel":
                        self._changed.set()
            except CommandError:
                pass  # the watcher gets the same error from its own request
            time.sleep(REFRESH_S)


def _print_changes(api: ApiClient, screen: Screen, changes: _TunnelChanges) -> None:
    last = ("", "")
    while True:
        tunnel = api.tunnel()
        current = (tunnel.state, tunnel.detail)
        if current != last:
            screen.show(tunnel_line(tunnel, datetime.now(UTC)))
        last = current
        changes.wait()


def _facts(tunnel: TunnelInfo) -> list[str]:
    raw, traffic = tunnel.raw, []
    if raw.get("round_trip_ms") is not None:
        traffic.append(f"round trip {raw['round_trip_ms']:.1f} ms")
    if raw.get("open_channels"):
        traffic.append(f"{raw['open_channels']} open channels")
    if raw.get("bytes_up") or raw.get("bytes_down"):
        sent, received = decimal_size(raw.get("bytes_up", 0)), decimal_size(raw.get("bytes_down", 0))
        traffic.append(f"{sent} sent, {received} received")
    facts = ["; ".join(traffic)] if traffic else []
    facts += [f"{clean(node)}: {clean(error) or 'connected over SSH'}" for node, error in raw.get("nodes", {}).items()]
    if raw.get("host_key"):
        facts.append(_host_key_text(raw["host_key"]))
    if raw.get("reconnects"):
        times = "once" if raw["reconnects"] == 1 else f"{raw['reconnects']} times"
        facts.append(f"reconnected {times}; last error: {clean(raw.get('last_error') or 'unknown')}")
    return facts


def _host_key_text(key: Json) -> str:
    shown = f"{clean(key['place'])}: host key {clean(key['algorithm'])} {clean(key['fingerprint'])}"
    return f"{shown} HAS CHANGED" if key.get("changed") else f"{shown} is unknown; accept it: `bouchet tunnel --trust`"
