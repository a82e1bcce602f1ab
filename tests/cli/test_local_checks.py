"""The doctor's checks of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bouchet_cli.local_checks import (
    SERVICES,
    CheckResult,
    claude_check,
    containers_check,
    secret_files,
    secret_files_check,
    version_check,
)

HEALTHY, STARTING, UNHEALTHY = "Up 2 hours (healthy)", "Up 2 hours (health: starting)", "Up 2 hours (unhealthy)"


def row(service: str, status: str = HEALTHY) -> str:
    """Return a line of `docker ps` in JSON."""
    labels = f"com.docker.compose.project=p,com.docker.compose.service={service}"
    return json.dumps({"Labels": labels, "Status": status})


ROWS = [row(service) for service in SERVICES]


@pytest.mark.parametrize(
    ("rows", "verdict", "mentioned"),
    [
        (ROWS, "pass", "5"),
        (ROWS[1:], "fail", "redis"),
        ([*ROWS[:-1], row("proxy", UNHEALTHY)], "fail", f"proxy: {UNHEALTHY}"),
        ([row("worker", STARTING), *ROWS], "fail", f"worker: {STARTING}"),
        ([*ROWS, row("demo-node", "Up 2 hours")], "pass", "5"),
        ([*ROWS, row("demo-node", UNHEALTHY)], "fail", "demo-node"),
    ],
)
def test_containers_check_judges_each_container(rows: list[str], verdict: str, mentioned: str) -> None:
    result = containers_check("\n".join(rows), "p")
    assert result.verdict == verdict and mentioned in result.message


def test_secret_files_that_others_can_read_fail(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert secret_files_check([file]).verdict == "fail"
    file.write_text("BOUCHET_API_KEY=x\n")
    file.chmod(0o644)
    readable = secret_files_check([file])
    assert readable.verdict == "fail" and f"chmod go= {file}" in readable.fix
    file.chmod(0o600)
    assert secret_files_check([file]).verdict == "pass"


def test_secret_files_include_the_folder_of_the_project(tmp_path: Path) -> None:
    folder = tmp_path / ".secrets-lab"
    folder.mkdir()
    (folder / "key").write_text("x")
    assert secret_files(tmp_path / ".env", tmp_path, "lab") == [tmp_path / ".env", folder, folder / "key"]
    assert secret_files(tmp_path / ".env", tmp_path, "bouchet") == [tmp_path / ".env"]


def test_version_check_warns_of_a_difference() -> None:
    assert version_check("0.1.0", "0.1.0").verdict == "pass"
    old = version_check("0.2.0", "0.1.0")
    assert (old.verdict, "make up" in old.fix) == ("warn", True)


def test_claude_check_warns_if_it_is_not_installed() -> None:
    assert [claude_check(installed=installed).verdict for installed in (True, False)] == ["pass", "warn"]


def test_check_result_of_the_api_may_lack_a_fix() -> None:
    raw = {"area": "ssh", "name": "tunnel", "verdict": "pass", "message": "up", "fix": None}
    assert CheckResult.from_json(raw) == CheckResult("ssh", "tunnel", "pass", "up")
