"""The quick tests pass in a checkout whose stack is up: `make up`, then `make test`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.checkout_guard import CheckoutReadError
from tests.conftest import PORTS_EACH, Ports
from tests.fakes.docker_program import FakeEngine

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "services/notifier", "cli")
# those that ask for keys, secret files, the engine or the ports of a stack
RELEVANT = ("tests/cli/commands/test_doctor.py", "tests/cli/client/test_settings.py", "tests/setup/files")
SECRETS = ("admin_key", "api_key", "redis_proxy", "gateway_token_api", "serving_secret", "hf_token")
TIMEOUT_S = 200


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with an env file and secrets that no test could use."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    checkout = tmp_path / "checkout"
    for name in names.split("\0"):
        if name and (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    (checkout / ".secrets").mkdir()
    for path in (checkout / ".env", *(checkout / ".secrets" / name for name in SECRETS)):
        path.write_text("this is no line of an env file\n")
        path.chmod(0o644)
    return checkout


@pytest.mark.slow
def test_relevant_tests_pass_in_checkout_of_running_stack(checkout: Path, tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BOUCHET_", "PYTEST_"))}
    environ = {
        **inherited,
        "PATH": engine.path,
        "PYTHONPATH": ":".join(str(checkout / package) for package in PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *RELEVANT]
    done = subprocess.run(argv, cwd=checkout, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert engine.state["calls"] == [], "a test asked the engine of a stack that runs"


@pytest.mark.parametrize("name", [".env", ".secrets", ".secrets/api_key", ".secrets-lab/api_key"])
def test_guard_refuses_files_of_the_checkout(name: str) -> None:
    with pytest.raises(CheckoutReadError):
        (ROOT / name).open()


def test_guard_allows_template_and_other_folders(tmp_path: Path) -> None:
    assert (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text("")
    (tmp_path / ".secrets").mkdir()
    assert list((tmp_path / ".secrets").iterdir()) == []


def test_no_two_processes_of_tests_have_a_port_in_common(tmp_path: Path) -> None:
    shares = 3
    program = f"""
import sys
from pathlib import Path
from tests.conftest import FIRST_PORT, PORTS_EACH, Ports
ports = Ports({shares}, Path({str(tmp_path)!r}))
taken = {{ports.take(1) for _ in range(50)}}
shares = {{(port - FIRST_PORT) // PORTS_EACH for port in taken}}
print(ports.share(), shares == {{ports.share()}}, ports.take_job_port(), flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", program]
    with ExitStack() as opened:
        running = []
        for _ in range(shares):
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            opened.enter_context(process)
            running.append(process)
        printed = [process.stdout.readline().split() for process in running if process.stdout]
        assert sorted(share for share, *_ in printed) == ["0", "1", "2"]
        assert [is_its_own for _, is_its_own, _ in printed] == ["True"] * shares
        assert len({job_port for *_, job_port in printed}) == shares
        one_more = subprocess.run(argv, input="", capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
        assert f"{shares} processes of tests run already" in one_more.stderr
        running[0].kill()
        running[0].wait()
        again = subprocess.run(argv, input="", capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
        assert again.stdout.split()[0] == printed[0][0], again.stderr


def test_ports_for_later_are_handed_out_again_after_all_others(tmp_path: Path) -> None:
    """A test that takes several has no servers on some of them yet: they look free."""
    ports, taken = Ports(1, tmp_path), list[int]()
    while len(taken) < PORTS_EACH * 3:
        count = 16 if len(taken) % 5 == 0 else 1
        first = ports.take(count)
        found = range(first, first + count)
        recent = taken[-PORTS_EACH // 2 :]
        assert not set(found) & set(recent), (found, len(taken))
        taken += found
    ports.close()
