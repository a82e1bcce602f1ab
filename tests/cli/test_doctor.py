"""`bouchet doctor` on machines in every state."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from bouchet_cli.local_checks import SERVICES, containers_check, secrecy_check, version_check
from bouchet_cli.view.checks import Check, check_lines, summary

from tests.cli.conftest import Bouchet
from tests.fakes.gateway_api import FakeGateway

ROWS = [
    json.dumps(
        {
            "Labels": f"com.docker.compose.project=p,com.docker.compose.service={service}",
            "Status": "Up 2 hours (healthy)",
        }
    )
    for service in SERVICES
]


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """A PATH with a Docker engine that runs a healthy stack, and with Claude Code."""
    programs = tmp_path / "bin"
    programs.mkdir()
    listed = "\n".join(ROWS)
    docker = f"#!/bin/sh\nif [ \"$1\" = version ]; then echo 28.1; else cat <<'END'\n{listed}\nEND\nfi\n"
    for name, text in (("docker", docker), ("claude", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:/usr/bin:/bin"}


def verdicts(out: str) -> dict[str, str]:
    return {f"{c['area']}: {c['name']}": c["verdict"] for c in json.loads(out)["checks"]}


def test_it_says_what_is_down_and_what_to_do(bouchet: Bouchet, engine: dict[str, str], gateway: FakeGateway) -> None:
    Path(bouchet.environment["BOUCHET_ENV_FILE"]).chmod(0o600)
    done = bouchet("doctor", **engine)
    assert done.status == 1  # this stack has no worker
    lines = done.out.splitlines()
    assert "pass     stack: engine: Docker 28.1" in lines
    assert "pass     stack: containers: all 5 of bouchet are healthy" in lines
    assert "pass     stack: version: 0.1.0, like the api's" in lines
    assert "pass     ssh: tunnel: up to login since" in done.out
    at = next(index for index, line in enumerate(lines) if line.startswith("fail     stack: worker"))
    assert lines[at + 1].strip() == "-> `make logs` says why; `make up` starts it anew"
    assert "unknown  slurm: cluster: was not looked at" in done.out
    assert max(map(len, lines)) <= 80
    assert done.err.splitlines()[-1].startswith("error: 1 of ")


def test_a_login_that_waits_for_a_person(bouchet: Bouchet, engine: dict[str, str], gateway: FakeGateway) -> None:
    gateway.ask("p1", "Passcode: ")
    bouchet.store.beat("worker", 60)
    report = bouchet("doctor", "--json", **engine)
    assert report.status == 1
    found = verdicts(report.out)
    assert (found["stack: worker"], found["ssh: tunnel"], found["slurm: cluster"]) == ("pass", "fail", "unknown")
    tunnel = next(c for c in json.loads(report.out)["checks"] if c["name"] == "tunnel")
    assert tunnel["fix"] == "`bouchet tunnel`"


def test_with_the_api_down_this_machine_is_looked_at_all_the_same(bouchet: Bouchet, engine: dict[str, str]) -> None:
    down = bouchet(
        "doctor", "--json", BOUCHET_API_URL="http://127.0.0.1:1", BOUCHET_PROXY_URL="http://127.0.0.1:1", **engine
    )
    found = verdicts(down.out)
    assert down.status == 1
    assert (found["stack: engine"], found["stack: api"], found["stack: proxy"]) == ("pass", "fail", "fail")
    assert found["cluster: all of it"] == "unknown"


def test_without_engine_or_key(bouchet: Bouchet, tmp_path: Path) -> None:
    none = bouchet("doctor", "--json", PATH=str(tmp_path), BOUCHET_ENV_FILE=str(tmp_path / "nowhere"))
    found = verdicts(none.out)
    assert none.status == 1
    assert (found["stack: engine"], found["stack: keys"], found["stack: api"]) == ("fail", "fail", "fail")
    assert found["stack: claude code"] == "warn"


def test_a_docker_that_refuses_this_user(bouchet: Bouchet, tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'permission denied while trying to connect' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    done = bouchet("doctor", "--local", "--json", PATH=f"{tmp_path}:/usr/bin:/bin")
    [engine] = [c for c in json.loads(done.out)["checks"] if c["name"] == "engine"]
    assert (engine["verdict"], "usermod" in engine["fix"]) == ("fail", True)


def test_containers() -> None:
    assert containers_check("\n".join(ROWS), "p").verdict == "pass"
    missing = containers_check("\n".join(ROWS[1:]), "p")
    assert (missing.verdict, missing.message) == ("fail", "p has no container redis")
    ill = containers_check("\n".join([*ROWS[:-1], ROWS[-1].replace("(healthy)", "(unhealthy)")]), "p")
    assert (ill.verdict, ill.message) == ("fail", "proxy: Up 2 hours (unhealthy)")
    second = containers_check("\n".join([ROWS[2].replace("(healthy)", "(health: starting)"), *ROWS]), "p")
    assert (second.verdict, second.message) == ("fail", "worker: Up 2 hours (health: starting)")


def test_keys_that_others_may_read(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("BOUCHET_API_KEY=x\n")
    file.chmod(0o644)
    loose = secrecy_check([file])
    assert (loose.verdict, loose.fix) == ("fail", f"chmod go= {file}")
    file.chmod(0o600)
    assert secrecy_check([file]).verdict == "pass"


def test_versions_and_the_summary() -> None:
    assert version_check("0.1.0", "0.1.0").verdict == "pass"
    old = version_check("0.2.0", "0.1.0")
    assert (old.verdict, "make up" in old.fix) == ("warn", True)
    assert summary([old, Check("a", "b", "unknown", "c")]) == "0 passed, 1 warnings, 1 unknown"
    [line] = check_lines(Check("a", "b", "pass", "said\x1b[2J"), 80)
    assert line.plain == "pass     a: b: said[2J"
