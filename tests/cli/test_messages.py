"""The command's messages to people, compared with tests/contracts/golden/messages/cli.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bouchet_cli.chat.conversation import HELP
from bouchet_cli.client.deployments import ready_deployment
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.http import HttpStatusError
from bouchet_cli.client.problems import api_error, proxy_error
from bouchet_cli.client.records import DownloadInfo, ImageJobInfo, TunnelInfo
from bouchet_cli.commands.doctor import result_lines, summary
from bouchet_cli.integrations.claude_env import name_warning, tools_warning, window_warning
from bouchet_cli.integrations.snippets import CLIENTS, SnippetValues, placement_note, snippet
from bouchet_cli.local_checks import claude_check, containers_check, secret_files_check, version_check
from bouchet_cli.view.deployments import detail_lines, outage_line, status_lines
from bouchet_cli.view.lists import (
    OrphanInfo,
    image_job_line,
    image_lines,
    key_lines,
    orphan_hint,
    orphan_lines,
    task_lines,
    usage_lines,
)
from bouchet_cli.view.models import ModelInfo, download_line, download_lines, model_lines
from bouchet_cli.view.preview import preview_lines
from bouchet_cli.view.progress import launch_line
from bouchet_cli.view.repro import repro, repro_lines
from bouchet_cli.view.screen import StyledLine
from bouchet_cli.view.tunnel import tunnel_lines

from tests.cli.harness import NOTHING_LISTENS, Bouchet
from tests.cli.samples import IMAGES, JOB, NOW, PREVIEW, USAGE, deployment

GOLDEN = Path(__file__).parents[1] / "contracts" / "golden" / "messages" / "cli.txt"
FINGERPRINT = "SHA256:uNiVztksCsDhcc0u9e8BrNtxfPWYnvQdsqMJ9VJ4Cdo"
SINCE = (NOW - timedelta(hours=3)).isoformat()
# command lines whose answer does not depend on the API
COMMAND_LINES = (
    "lunch",
    "nosuchthing",
    "--status --models",
    "status -- -p",
    "models --bogus",
    "launch a --model b",
    "launch --as opus,sonett",
    "attach",
    "attach x --node n1 --port many",
    "attach x --node n1 --port 8000 --key-file /nowhere/key",
    "status --repro",
    "download --cancel",
    "download x --cancel --revision main",
    "image remove cpu-0.32.0",
    "keys add x --tokens-per-minute many",
    "orphans --adopt x",
    "tunnel --watch --json",
    "tunnel --port 0 --json",
    "tunnel --port 99999",
    "completion",
)
# with nothing running; requests of a worker are left out
IDLE = (
    "status",
    "cancel",
    "logs",
    "env",
    "chat",
    "",
    "download",
    "keys",
    "usage",
    "tasks",
    "tunnel --trust",
)
# then, in this order
ACTIVE = (
    "launch",
    "launch Qwen/Qwen3-32B --name mine",
    "env --model mine",
    "cancel",
    "cancel mine",
    "download Qwen/Qwen3-32B --no-wait",
    "download Qwen/Qwen3-32B --cancel",
    "image build cpu-0.32.0 --no-wait",
    "image verify cpu-0.32.0 --no-wait",
    "image build cpu-0.32.0 --cancel",
    "keys add alice",
    "keys revoke alice",
)
OUTAGE = {"since": SINCE, "detail": "squeue did not end within 20 s"}
ORPHANS: list[list[dict[str, Any]]] = [
    [{"slurm_id": 9, "name": "bouchet-zz-1", "state": "RUNNING", "node": "node1", "owner": "this", "note": "no job"}],
    [{"slurm_id": n, "name": f"bouchet-z{n}-1", "state": "PENDING", "owner": "another"} for n in (1, 2)],
]  # fmt: skip
QUEUED_JOB = {
    "slurm_id": 7,
    "placement": {**JOB["placement"], "nodes": 2},
    "start_estimate": (NOW + timedelta(minutes=40)).isoformat(),
}
QUEUED = deployment("b", "queued", jobs=[QUEUED_JOB], reason="waits for GPUs")
SERVER = {"model": "org/g", "dialects": ["openai", "anthropic"], "has_key": True}
PLACE = {"node": "node3", "port": 8000, "window": 65_536, "vllm_version": "0.32.0", "phase": "ready"}
ATTACHED = [
    deployment("g", jobs=[PLACE], attached=SERVER),
    deployment("h", "starting", jobs=[PLACE], attached=SERVER, reason="not reachable: Connection refused"),
]
MODELS = [
    ModelInfo("org/a", "a", "the best default", 1, 65536, "fp8", "ready", None, 61 << 30, NOW, "ready"),
    ModelInfo("org/b", "b", "another one", 8, 262144, "none", "partial", 43),
]
DOWNLOAD = {"id": "d1", "model": "org/a", "bytes": 30 << 30, "total_bytes": 60 << 30, "updated_at": SINCE}
DOWNLOADS = [
    DownloadInfo.from_json({**DOWNLOAD, "state": "running", "reason": "downloading", "rate": 1 << 30, "eta_s": 30}),
    DownloadInfo.from_json({**DOWNLOAD, "state": "queued", "reason": "waits for a node", "total_bytes": None}),
]
IMAGE_JOBS = [ImageJobInfo("a", "cpu-0.32.0", "build", "running", "installing packages", "packages", 73, 140)]
KEYS: list[dict[str, Any]] = [
    {"name": "alice", "shown": "sk-bouchet-...wxyz", "requests_per_minute": 60, "tokens_per_minute": None,
     "created_at": SINCE, "expires_at": (NOW + timedelta(days=2)).isoformat()},
    {"name": "bob", "shown": "sk-bouchet-...abcd", "requests_per_minute": None, "tokens_per_minute": 200_000,
     "created_at": SINCE, "expires_at": SINCE},
]  # fmt: skip
TASKS = [{"id": "submit-x", "task": "submit", "deployment": "x", "failed_at": SINCE, "reason": "sbatch: no account"}]
TUNNEL = {"state": "up", "host": "login", "since": SINCE}
HOST_KEY = {"place": "login", "algorithm": "ssh-ed25519", "fingerprint": FINGERPRINT, "changed": False}
TUNNELS: list[dict[str, Any]] = [
    {"round_trip_ms": 12.34, "bytes_up": 1_500, "bytes_down": 2_400_000_000, "open_channels": 3, "reconnects": 2,
     "last_error": "connection reset"},
    {"nodes": {"node1": "", "node2": "cannot log in to node2"}},
    {"state": "refused", "detail": "unknown host key", "host_key": HOST_KEY},
    {"state": "refused", "host_key": {**HOST_KEY, "changed": True}},
    {"state": "needs_human"},
    {"state": "needs_human", "waiting_requests": 1},
    {"state": "down", "detail": "connection reset", "waiting_requests": 12},
    {"state": "down", "detail": "connection reset", "reconnects": 1},
]  # fmt: skip
VALUES = SnippetValues("tiny", "http://127.0.0.1:4000", 65_536, 8192, True, False, "/opt/bouchet")

Text = Iterable[StyledLine | str | None]


def test_messages_match_the_golden_file(bouchet: Bouchet) -> None:
    one = deployment("a", jobs=[JOB])
    sections: Mapping[str, Text] = {
        "wrong command lines": outputs(bouchet, COMMAND_LINES),
        "nothing running": outputs(bouchet, IDLE),
        "launches and jobs": outputs(bouchet, ACTIVE),
        "unreachable": unreachable(bouchet),
        "error answers": error_answers(),
        "choice of a deployment": choices(),
        "status": [*status_lines([one, QUEUED], 80, NOW), outage_line(OUTAGE, NOW), *map(orphan_hint, ORPHANS)],
        "status NAME": [*detail_lines(one, 100, NOW), *detail_lines(QUEUED, 80, NOW)],
        "adopted": status_lines([deployment("d", jobs=[JOB], launched_by="0123456789ab")], 80, NOW),
        "attached servers": [*status_lines(ATTACHED, 80, NOW), *detail_lines(ATTACHED[0], 80, NOW)],
        "status NAME --repro": repro_lines(repro(one), NOW),
        "launch progress": [launch_line(QUEUED, NOW + timedelta(minutes=2))],
        "launch --dry-run": preview_lines(PREVIEW),
        "models": model_lines(MODELS, "org/a", 80, NOW),
        "download": [*download_lines(DOWNLOADS, 80, NOW), *map(download_line, DOWNLOADS)],
        "image": [*image_lines(IMAGES, 80), *map(image_job_line, IMAGE_JOBS)],
        "keys": key_lines(KEYS, 80, NOW),
        "usage": usage_lines("key", [USAGE], 80),
        "tasks": task_lines(TASKS, 80, NOW),
        "orphans": orphan_lines([OrphanInfo.from_json(orphan) for orphan in ORPHANS[0]], 80),
        "tunnel": tunnel_lines_of_all(),
        "doctor": doctor_lines(),
        "Claude Code": [window_warning(40_960, 8192), name_warning("claude-x"), tools_warning("plain text")],
        "env --for": snippets(),
        "chat /help": [HELP],
    }
    text = "\n".join(f"## {title}\n\n{joined(lines)}\n" for title, lines in sections.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text, "run with UPDATE_GOLDEN=1 if the new messages are right"


def joined(lines: Text) -> str:
    """Return the lines without styles."""
    return "\n".join(line.plain if isinstance(line, StyledLine) else line or "" for line in lines).rstrip()


def outputs(bouchet: Bouchet, lines: Iterable[str], **environment: str) -> Iterator[str]:
    """Yield what commands print, without ids, keys, times and ports."""
    for line in lines:
        done = bouchet(*line.split(), COLUMNS="120", PATH="/nowhere", **environment)
        text = done.err + done.out
        for pattern, placeholder in (
            (r"(?<=\()(id )?[a-z0-9]{12}(?=\))", r"\1ID"),
            (r"sk-bouchet-[\w.-]+", "KEY"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
            (r"\d\d \w{3} \d\d:\d\d", "TIME"),
            (r" for [\dhdms]+\b", " for AGE"),
        ):
            text = re.sub(pattern, placeholder, text)
        yield f"$ bouchet {line}".rstrip() + f"\n{text.rstrip()}"


def unreachable(bouchet: Bouchet) -> Iterator[str]:
    """Yield the errors of a command without an API or a key."""
    for name, value in (
        ("BOUCHET_API_URL", NOTHING_LISTENS),
        ("BOUCHET_API_URL", "127.0.0.1"),
        ("BOUCHET_API_URL", bouchet.proxy.url),
        ("BOUCHET_ADMIN_KEY", "wrong"),
        ("BOUCHET_ADMIN_KEY", "a\nb"),
        ("BOUCHET_ENV_FILE", "/nowhere/.env"),
    ):
        yield from outputs(bouchet, ["status"], **{name: value})


def error_answers() -> Iterator[str]:
    """Yield the errors for answers without a message."""
    yield str(api_error(HttpStatusError("http://api", 500, b"<html>")))
    yield str(proxy_error(HttpStatusError("http://proxy", 502, b"")))
    yield str(proxy_error(HttpStatusError("http://proxy", 401, b"")))
    yield str(proxy_error(HttpStatusError("http://proxy", 401, b""), own_key=True))


def choices() -> Iterator[str]:
    """Yield the errors for names that no ready deployment has."""
    for live, name in (([], None), ([QUEUED], None), ([QUEUED], "other")):
        with pytest.raises(CommandError) as raised:
            ready_deployment(live, name)
        yield str(raised.value)


def tunnel_lines_of_all() -> Iterator[StyledLine]:
    """Yield each state of the tunnel."""
    for fields in TUNNELS:
        yield from tunnel_lines(TunnelInfo.from_json({**TUNNEL, **fields}), NOW)


def doctor_lines() -> Iterator[StyledLine | str]:
    """Yield the results of the checks of this machine."""
    results = [
        version_check("0.2.0", "0.1.0"),
        claude_check(installed=True),
        claude_check(installed=False),
        containers_check("", "bouchet"),
        secret_files_check([]),
    ]
    for result in results:
        yield from result_lines(result, 100)
    yield summary(results)


def snippets() -> Iterator[str]:
    """Yield each client's snippet with its note."""
    for name, client in CLIENTS.items():
        yield f"$ bouchet env --for {name}"
        yield from filter(None, [placement_note(client, VALUES), snippet(client, VALUES)])
