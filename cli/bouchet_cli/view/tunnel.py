"""The SSH connection as people see it: how it is, how far the cluster is, what went through, what went wrong last."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.records import Json, Tunnel

from .line import Line, clean
from .screen import Screen, styled
from .tables import tunnel_line

# how far, how much: numbers that no event tells
WATCH_S = 2.0
_UNITS = ("B", "KB", "MB", "GB", "TB")


def tunnel_lines(tunnel: Tunnel, now: datetime) -> list[Line]:
    """The state, and below it what else is known."""
    return [tunnel_line(tunnel, now), *(Line(f"  {words}", "dim") for words in _facts(tunnel))]


def watch(api: Api, screen: Screen) -> None:
    """Shows it live until interrupted; where nothing can be redrawn, a line for every change."""
    news = _News(api)
    if not screen.out.is_terminal:
        _watch_lines(api, screen, news)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=screen.out.console, refresh_per_second=4, transient=False) as live:
        while True:
            live.update(Group(*(styled(line) for line in tunnel_lines(api.tunnel(), datetime.now(UTC)))))
            news.wait()


class _News:
    """Wakes who watches at the moment when something happens to the tunnel, as the API's events tell it."""

    def __init__(self, api: Api) -> None:
        self._api, self._came = api, threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self) -> None:
        """Returns at the next news, or after WATCH_S."""
        self._came.wait(WATCH_S)
        self._came.clear()

    def _listen(self) -> None:
        while True:
            try:
                for message in self._api.events():
                    if message.event == "tunnel":
                        self._came.set()
            except CommandError:
                pass  # the watcher hears of it when it asks
            time.sleep(WATCH_S)


def _watch_lines(api: Api, screen: Screen, news: _News) -> None:
    last = ("", "")
    while True:
        tunnel = api.tunnel()
        said = (tunnel.state, tunnel.detail)
        if said != last:
            screen.show(tunnel_line(tunnel, datetime.now(UTC)))
        last = said
        news.wait()


def size(count: float) -> str:
    """Bytes for people: 12 B, 3.4 MB."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def _facts(tunnel: Tunnel) -> list[str]:
    raw, words = tunnel.raw, []
    if raw.get("round_trip_ms") is not None:
        words.append(f"{raw['round_trip_ms']:.1f} ms to the login node and back")
    if raw.get("open_channels"):
        words.append(f"{raw['open_channels']} channels open")
    if raw.get("bytes_up") or raw.get("bytes_down"):
        words.append(f"{size(raw.get('bytes_up', 0))} sent, {size(raw.get('bytes_down', 0))} received")
    lines = ["; ".join(words)] if words else []
    lines += [f"{clean(node)}: {clean(words) or 'reached over ssh'}" for node, words in raw.get("nodes", {}).items()]
    if raw.get("host_key"):
        lines.append(_host_key_words(raw["host_key"]))
    if raw.get("reconnects"):
        times = "once" if raw["reconnects"] == 1 else f"{raw['reconnects']} times"
        lines.append(f"reconnected {times}; last: {clean(raw.get('last_error') or 'unknown')}")
    return lines


def _host_key_words(key: Json) -> str:
    shown = f"{clean(key['place'])} shows {clean(key['algorithm'])} {clean(key['fingerprint'])}"
    return f"{shown}, which CHANGED" if key.get("changed") else f"{shown}: `bouchet tunnel --trust` accepts it"
