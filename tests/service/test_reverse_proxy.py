"""The page "one stack for a lab": a real nginx with the configuration that the page shows, in front of the proxy."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core.keys import serving_key

from tests.conftest import free_port, free_ports, start_redis
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, RunningApi, running
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.environment import (
    ALIAS,
    JOB,
    KEY,
    MODEL,
    NODE_PORT,
    SERVING_SECRET,
    SLOTS,
    WINDOW,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_direct_process,
)
from tests.waiting import wait_for

PAGE = Path(__file__).parents[2] / "docs" / "lab.md"
NAME = "llm.lab.example"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
TIMEOUT_S = 60.0
# what Debian's nginx.conf has around the files of conf.d, as far as it changes answers
AROUND = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/start.log;
events {{ worker_connections 100; }}
http {{
  {temporary}
  gzip on;
  include {folder}/bouchet.conf;
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Lab:
    """The server of a lab. folder: nginx's files and logs."""

    port: int
    folder: Path
    client: httpx.Client
    vllm: FakeVLLM
    api: RunningApi
    proxy: RunningProxy

    def post(self, path: str, body: object, key: str = KEY, **headers: str) -> httpx.Response:
        """Send a request to the lab's address."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            path, content=content, headers={"content-type": "application/json"} | _with(key, headers)
        )

    def get(self, path: str, key: str = KEY) -> httpx.Response:
        """Ask the lab's address."""
        return self.client.get(path, headers=_with(key, {}))

    def add_key(self, name: str, **limits: Any) -> str:
        """Make a key as `bouchet keys add` does, and wait until the proxy knows it."""
        made = self._ask_api("POST", "/v1/keys", {"name": name, **limits}).json()["key"]
        wait_for(lambda: self.get("/v1/models", made).status_code == 200)
        return str(made)

    def revoke_key(self, name: str) -> None:
        """Revoke a key as `bouchet keys revoke` does."""
        assert self._ask_api("DELETE", f"/v1/keys/{name}").is_success

    def logs(self) -> str:
        """Return what nginx wrote."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def _ask_api(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.request(method, f"{self.api.url}{path}", json=body, headers=headers, timeout=TIMEOUT_S)


def _with(key: str, headers: dict[str, str]) -> dict[str, str]:
    return {"x-api-key": key} | {name.replace("_", "-"): value for name, value in headers.items()}


def body_of(text: str, **fields: Any) -> dict[str, Any]:
    """Return a message."""
    return {"model": ALIAS, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def shown_configuration() -> str:
    """Return the page's configuration."""
    (found,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(found)


def with_places(text: str, folder: Path, port: int, proxy_port: int) -> str:
    """Return the page's configuration with the places of a test: each of the page's is in it once."""
    for shown, own in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/lab.pem", f"{folder}/lab.pem"),
        ("/etc/ssl/lab.key", f"{folder}/lab.key"),
        ("/var/log/nginx/bouchet.log", f"{folder}/bouchet.log"),
        ("/var/log/nginx/bouchet-error.log", f"{folder}/bouchet-error.log"),
        ("http://127.0.0.1:4000;", f"http://127.0.0.1:{proxy_port};"),
    ):
        assert text.count(shown) == 1, shown
        text = text.replace(shown, own)
    return text


def write_certificates(folder: Path) -> None:
    """Make a certificate authority, and a certificate of the lab's name that it signed."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    authority = ("openssl", "req", "-x509", *key, "-subj", "/CN=the lab's authority")
    own = (
        "openssl",
        "req",
        "-x509",
        *key,
        "-subj",
        f"/CN={NAME}",
        "-addext",
        f"subjectAltName=DNS:{NAME},IP:127.0.0.1",
    )
    signed = ("-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    for argv in (
        (*authority, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem"),
        (*own, *signed, "-keyout", f"{folder}/lab.key", "-out", f"{folder}/lab.pem"),
    ):
        subprocess.run(argv, check=True, capture_output=True)


def start_nginx(folder: Path, configuration: str) -> subprocess.Popen[bytes]:
    """Start nginx with a file of conf.d."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is not installed; `make tools` installs it where it can"
    (folder / "bouchet.conf").write_text(configuration)
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, temporary=temporary, user=user))
    argv = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")]
    return subprocess.Popen(argv)


@contextmanager
def running_lab(directory: Path) -> Iterator[Lab]:
    """Run model, proxy, API and nginx."""
    folder, port, base = directory / "nginx", free_port(), free_ports(SLOTS)
    folder.mkdir()
    write_certificates(folder)
    vllm = FakeVLLM((ALIAS, MODEL), serving_key(SERVING_SECRET, JOB), WINDOW, NODE_PORT)
    with ExitStack() as opened:
        redis = start_redis(directory, free_port())
        opened.callback(redis.stop)
        store = opened.enter_context(closing(redis.store()))
        store.create(make_deployment())
        environment = ProxyEnvironment(directory, redis.port, redis.password, store, base, vllm)
        opened.enter_context(serve_vllm(vllm, base))
        proxy = opened.enter_context(run_direct_process(environment))
        gateway = opened.enter_context(FakeGateway())
        api = opened.enter_context(running(directory, redis, gateway, proxy_url=proxy.url))
        client = opened.enter_context(client_of(port, folder / "ca.pem"))
        places = with_places(shown_configuration(), folder, port, httpx.URL(proxy.url).port or 0)
        nginx = start_nginx(folder, places)
        opened.callback(nginx.wait)
        opened.callback(nginx.terminate)
        lab = Lab(port, folder, client, vllm, api, proxy)
        wait_for(lambda: nginx.poll() is not None or _is_served(lab), TIMEOUT_S, lab.logs)
        assert nginx.poll() is None, lab.logs()
        yield lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Yield the lab of these tests."""
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def _is_served(lab: Lab) -> bool:
    try:
        return lab.post(MESSAGES, body_of("SAY[up]")).status_code == 200
    except httpx.TransportError:
        return False


def client_of(port: int, authority: Path) -> httpx.Client:
    """Return a client on another machine, which trusts the lab's authority and checks the lab's name."""
    context = ssl.create_default_context(cafile=str(authority))
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=TIMEOUT_S, trust_env=False)


def read_numbers(lab: Lab, path: str, body: dict[str, Any], find: str) -> list[int]:
    """Read a stream of numbers whose events wait for us; return how many events were made as each number came.

    find: a pattern of a number in an event.
    """
    lab.vllm.gate, lab.vllm.events = threading.Semaphore(1), 0
    made: list[int] = []
    try:
        with lab.client.stream("POST", path, json=body, headers=_with(KEY, {})) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if re.search(find, line):
                    made.append(lab.vllm.events)
                # whatever has come is all that there is: the next one may be made
                if line.startswith("data:"):
                    lab.vllm.gate.release()
    finally:
        lab.vllm.gate = None
    return made


@pytest.mark.parametrize(("path", "find"), [(MESSAGES, r'"text_delta".*"\d'), (RESPONSES, r"output_text\.delta.*\d")])
def test_every_event_arrives_before_the_next_is_made(lab: Lab, path: str, find: str) -> None:
    numbers = "SAY[" + " ".join(map(str, range(10, 20))) + "]"
    body = body_of(numbers, stream=True) if path == MESSAGES else {"model": ALIAS, "input": numbers, "stream": True}
    made = read_numbers(lab, path, body, find)
    assert len(made) >= 10 and made == sorted(set(made)), made


def test_keys_and_limits_hold_behind_it(lab: Lab) -> None:
    assert lab.post(MESSAGES, body_of("x"), "wrong-key").status_code == 401
    alice = lab.add_key("alice", requests_per_minute=2)
    answers = [lab.post(MESSAGES, body_of("SAY[hello]"), alice) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].json()["content"][0]["text"] == "hello"
    assert int(answers[2].headers["retry-after"]) > 0
    # an address that the client claims changes nothing: another one is no other person, the server's own no owner
    for claimed in ("203.0.113.7", "127.0.0.1"):
        assert lab.post(MESSAGES, body_of("x"), alice, x_forwarded_for=claimed).status_code == 429
        assert lab.post(MESSAGES, body_of("x"), "wrong-key", x_forwarded_for=claimed).status_code == 401
    assert lab.post(MESSAGES, body_of("x"), KEY, x_forwarded_for="203.0.113.7").status_code == 200
    assert "203.0.113.7" not in json.dumps([asked["headers"] for asked in lab.vllm.requests]) + lab.logs()
    lab.revoke_key("alice")
    wait_for(lambda: lab.post(MESSAGES, body_of("x"), alice).status_code == 401)


def test_large_bodies_pass_and_too_large_ones_are_refused_with_a_status(lab: Lab) -> None:
    large = body_of("SAY[read]", metadata={"user_id": "u" * (20 << 20)})
    answer = lab.post(MESSAGES, large)
    assert answer.status_code == 200 and answer.json()["content"][0]["text"] == "read", answer.text[:500]
    assert lab.post(MESSAGES, json.dumps(large).encode(), "wrong-key").status_code == 401
    assert lab.post(MESSAGES, b" " * (65 << 20)).status_code == 413
    assert list((lab.folder / "client_body").rglob("*/*")) == [], "no prompt was written to the disk"


def test_api_and_what_is_the_owners_are_not_to_be_had(lab: Lab) -> None:
    for path in ("/v1/deployments", "/v1/keys", "/v1/tunnel", "/v1/usage", "/login", "/dashboard", "/static/app.js"):
        answers = [lab.client.get(path, headers={"authorization": f"Bearer {key}"}) for key in (KEY, ADMIN_KEY)]
        assert [answer.status_code for answer in answers] == [404, 401], path
    # the API has them
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert httpx.get(f"{lab.api.url}/v1/deployments", headers=headers, timeout=TIMEOUT_S).status_code == 200
    for path in ("/metrics", "/x/..//metrics", f"/passthrough/{ALIAS}/version", f"/x/../passthrough/{ALIAS}/version"):
        assert lab.get(path).status_code == 404, path


def test_no_key_is_in_a_log_also_when_the_proxy_is_down(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        asked = f"/v1beta/models?key={KEY}"
        assert lab.client.get(asked).status_code == 200
        assert lab.client.post(asked, content=b" " * (65 << 20)).status_code == 413
        assert lab.proxy.pid is not None
        os.kill(lab.proxy.pid, signal.SIGKILL)
        wait_for(lambda: lab.client.get(asked).status_code == 502)
        wait_for(lambda: "GET /v1beta/models 502" in lab.logs())
        assert KEY not in lab.logs()


def test_unencrypted_request_is_refused(lab: Lab) -> None:
    answer = httpx.post(f"http://127.0.0.1:{lab.port}{MESSAGES}", json=body_of("x"), timeout=TIMEOUT_S)
    assert answer.status_code == 400 and "plain HTTP" in answer.text


def test_programs_of_the_page_trust_the_authority_that_is_named(lab: Lab) -> None:
    program = (
        "import anthropic, sys\n"
        f"ask = anthropic.Anthropic(max_retries=0).messages.create\n"
        f"made = ask(model='{ALIAS}', max_tokens=9, messages=[dict(role='user', content='SAY[hello]')])\n"
        "print(made.content[0].text)\n"
    )
    environ = {"ANTHROPIC_BASE_URL": f"https://127.0.0.1:{lab.port}", "ANTHROPIC_AUTH_TOKEN": KEY, "PATH": os.defpath}
    for more, status in (({"SSL_CERT_FILE": str(lab.folder / "ca.pem")}, 0), ({}, 1)):
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, env=environ | more, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        assert done.returncode == status, done.stderr
        assert done.stdout == ("hello\n" if status == 0 else "")
