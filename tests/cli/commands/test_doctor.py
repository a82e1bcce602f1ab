"""`bouchet doctor` on machines in every state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from bouchet_cli.commands.doctor import result_lines, summary
from bouchet_cli.local_checks import SERVICES, CheckResult

from tests.cli.harness import NOTHING_LISTENS, Bouchet, FakeGateway, script


def containers(statuses: Sequence[str] = ("Up 2 hours (healthy)",) * len(SERVICES)) -> str:
    """Return the output of `docker ps` for the services."""
    label = "com.docker.compose.project=p,com.docker.compose.service="
    rows = zip(SERVICES, statuses, strict=True)
    return "\n".join(json.dumps({"Labels": label + service, "Status": status}) for service, status in rows)


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """Return a PATH with a Docker engine that runs a healthy stack, and with Claude Code."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script(programs / "docker", f"if [ \"$1\" = version ]; then echo 28.1; else cat <<'END'\n{containers()}\nEND\nfi")
    script(programs / "claude", "")
    return {"PATH": f"{programs}:/usr/bin:/bin"}


def verdicts(out: str) -> dict[str, str]:
    """Return the verdict of each check in a JSON report."""
    return {f"{check['area']}: {check['name']}": check["verdict"] for check in json.loads(out)["checks"]}


def test_doctor_shows_each_check_with_a_fix_for_failures(bouchet: Bouchet, engine: dict[str, str]) -> None:
    Path(bouchet.environment["BOUCHET_ENV_FILE"]).chmod(0o600)
    done = bouchet("doctor", COLUMNS="80", **engine)
    assert done.status == 1, "this stack has no worker"
    lines = done.out.splitlines()
    assert "pass     stack: engine: Docker 28.1" in lines
    for check in ("stack: containers", "stack: version", "ssh: tunnel"):
        assert any(line.startswith(f"pass     {check}: ") for line in lines), check
    at = next(index for index, line in enumerate(lines) if line.startswith("fail     stack: worker"))
    assert "-> " in "".join(lines[at + 1 : at + 3])
    assert "unknown  slurm: cluster: " in done.out
    assert max(map(len, lines)) <= 80
    assert done.err.splitlines()[-1].startswith("error: 1 of ")


def test_doctor_with_open_prompt_fails_the_tunnel(
    bouchet: Bouchet, engine: dict[str, str], gateway: FakeGateway
) -> None:
    gateway.ask("p1", "Passcode: ")
    bouchet.store.beat("worker", 60)
    report = bouchet("doctor", "--json", **engine)
    assert report.status == 1
    found = verdicts(report.out)
    assert (found["stack: worker"], found["ssh: tunnel"], found["slurm: cluster"]) == ("pass", "fail", "unknown")
    tunnel = next(check for check in json.loads(report.out)["checks"] if check["name"] == "tunnel")
    assert "`bouchet tunnel`" in tunnel["fix"]


def test_doctor_without_api_checks_this_machine(bouchet: Bouchet, engine: dict[str, str]) -> None:
    down = bouchet("doctor", "--json", BOUCHET_API_URL=NOTHING_LISTENS, BOUCHET_PROXY_URL=NOTHING_LISTENS, **engine)
    found = verdicts(down.out)
    assert down.status == 1
    assert (found["stack: engine"], found["stack: api"], found["stack: proxy"]) == ("pass", "fail", "fail")
    assert found["cluster: all checks"] == "unknown"


def test_doctor_without_engine_or_key_fails_them(bouchet: Bouchet, tmp_path: Path) -> None:
    done = bouchet("doctor", "--json", PATH=str(tmp_path), BOUCHET_ENV_FILE=str(tmp_path / "missing"))
    found = verdicts(done.out)
    assert done.status == 1
    assert (found["stack: engine"], found["stack: keys"], found["stack: api"]) == ("fail", "fail", "fail")
    assert found["stack: claude code"] == "warn"


def test_doctor_local_names_the_group_for_a_docker_without_permission(bouchet: Bouchet, tmp_path: Path) -> None:
    script(tmp_path / "docker", "echo 'permission denied while trying to connect' >&2\nexit 1")
    done = bouchet("doctor", "--local", "--json", PATH=f"{tmp_path}:/usr/bin:/bin")
    [engine] = [check for check in json.loads(done.out)["checks"] if check["name"] == "engine"]
    assert (engine["verdict"], "usermod" in engine["fix"]) == ("fail", True)


def test_summary_counts_verdicts() -> None:
    results = [CheckResult("a", "b", verdict, "c") for verdict in ("warn", "unknown", "unknown")]
    assert summary(results) == "0 passed, 1 warning, 2 unknown"


def test_result_lines_have_no_control_characters() -> None:
    [line] = result_lines(CheckResult("a", "b", "pass", "c\x1b[2J"), 80)
    assert line.plain == "pass     a: b: c[2J"
