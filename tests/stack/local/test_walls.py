"""From a shell in a service's container, with its own secrets: what the other services guard stays out of reach."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.redis_attacks import MUST_NOT
from tests.stack.conftest import SMALL
from tests.stack.harness import Stack

SERVICES = ("proxy", "gateway", "worker", "api")
SECRETS = {
    "redis": {"redis_acl", "redis_password"},
    "proxy": {"api_key", "redis_password", "serving_secret"},
    "gateway": {"gateway_token_api", "gateway_token_worker", "redis_password"},
    "worker": {"redis_password", "gateway_token", "serving_secret", "hf_token"},
    "api": {"admin_key", "attach_secret", "chat_key", "db_url", "redis_password", "gateway_token"},
}
# prints what became of each command: "" if it was done, else the error
TRY = """
import json, sys, redis
user, commands = sys.argv[1], json.loads(sys.argv[2])
password = open("/run/secrets/redis_password").read().strip()
client = redis.Redis("redis", username=user or None, password=password, socket_timeout=10)
found = []
for command in commands:
    try:
        client.execute_command(*command)
        found.append("")
    except redis.RedisError as exc:
        found.append(f"{type(exc).__name__}: {exc}")
print(json.dumps(found))
"""
# prints the status of a request with each of the container's own secrets as its key
ASK = """
import json, os, sys, urllib.error, urllib.request
method, url = sys.argv[1:3]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
found = {}
for name in sorted(os.listdir("/run/secrets")):
    secret = open("/run/secrets/" + name).read().strip().split("\\n")[0]
    headers = {"Authorization": "Bearer " + secret, "x-api-key": secret}
    body = b"{}" if method in ("POST", "PUT") else None
    request = urllib.request.Request(url, body, headers | {"Content-Type": "application/json"}, method=method)
    try:
        found[name] = opener.open(request, timeout=10).status
    except urllib.error.HTTPError as exc:
        found[name] = exc.code
print(json.dumps(found))
"""


def try_in(stack: Stack, service: str, user: str, commands: Any) -> list[str]:
    """Run Redis commands in a service's container, with its password, as that user; return the errors."""
    done = stack.on(service, ["python", "-c", TRY, user, json.dumps(commands)])
    assert done.status == 0, done.output
    return list(json.loads(done.stdout))


def ask_from(stack: Stack, service: str, method: str, url: str) -> dict[str, int]:
    """Send a request from a service's container with each secret that it has; return the statuses."""
    done = stack.on(service, ["python", "-c", ASK, method, url])
    assert done.status == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("service", SERVICES)
def test_redis_refuses_a_service_what_is_not_its_own(stack: Stack, service: str) -> None:
    before = stack.deployments()
    commands = MUST_NOT[service]
    errors = try_in(stack, service, service, commands)
    refusals = ("permission", "user executing the script", "not allowed")
    pairs = zip(commands, errors, strict=True)
    done = [command for command, error in pairs if not any(word in error for word in refusals)]
    assert not done, f"{service} could run {done}"
    assert try_in(stack, service, service, [["PING"]]) == [""]
    assert [one["id"] for one in stack.deployments()] == [one["id"] for one in before]


@pytest.mark.parametrize(
    "service", [one if one == "proxy" else pytest.param(one, marks=pytest.mark.long) for one in SERVICES]
)
def test_redis_password_of_a_service_opens_no_other_user(stack: Stack, service: str) -> None:
    others = [user for user in ("", "default", "health", *SERVICES) if user != service]
    errors = {user: try_in(stack, service, user, [["PING"]])[0] for user in others}
    assert all("WRONGPASS" in error or "invalid" in error.lower() for error in errors.values()), errors


@pytest.mark.parametrize("service", SECRETS)
def test_container_has_only_its_own_secrets(stack: Stack, service: str) -> None:
    done = stack.on(service, ["ls", "/run/secrets"])
    assert set(done.stdout.split()) == SECRETS[service]


def test_proxy_opens_neither_api_nor_gateway_with_any_of_its_secrets(stack: Stack) -> None:
    for method, url in (
        ("GET", "http://api:4001/v1/status"),
        ("POST", "http://api:4001/v1/deployments"),
        ("GET", "http://api:4001/v1/keys"),
        ("POST", "http://api:4001/v1/tunnel/trust"),
        ("GET", "http://gateway:8090/v1/status"),
        ("POST", "http://gateway:8090/v1/run"),
        ("GET", "http://gateway:8090/v1/files?path=~/bouchet-llm/logs/README"),
    ):
        assert set(ask_from(stack, "proxy", method, url).values()) == {401}, (method, url)


def test_proxy_opens_no_connection_from_the_login_node(stack: Stack) -> None:
    forged = json.dumps({"node": "203.0.113.7", "port": 20443, "deployment": "x"})
    (error,) = try_in(stack, "proxy", "proxy", [["HSET", "bouchet:targets", "7", forged]])
    assert "permission" in error
    used = {job["slot"] for record in stack.deployments() for job in record["jobs"]}
    free = next(slot for slot in range(8) if slot not in used)
    assert set(ask_from(stack, "proxy", "GET", f"http://gateway:{8100 + free}/").values()) == {503}


def test_api_runs_no_command_and_reads_no_key_with_its_gateway_token(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    gateway, files = "http://gateway:8090/v1", "http://gateway:8090/v1/files?path=/home/researcher/bouchet-llm"
    assert ask_from(stack, "api", "GET", f"{gateway}/status")["gateway_token"] == 200
    assert ask_from(stack, "api", "POST", f"{gateway}/run")["gateway_token"] == 403
    assert ask_from(stack, "api", "PUT", f"{files}/jobs/x/y")["gateway_token"] == 403
    assert ask_from(stack, "api", "GET", f"{files}/jobs/{job['name']}/key")["gateway_token"] == 403
    assert ask_from(stack, "api", "GET", f"{files}/logs/{job['slurm_id']}.log")["gateway_token"] == 200


def test_worker_answers_no_prompt_with_its_gateway_token(stack: Stack) -> None:
    for path in ("answer", "trust", "forget", "connect"):
        assert ask_from(stack, "worker", "POST", f"http://gateway:8090/v1/{path}")["gateway_token"] == 403


def test_keys_open_their_own_service_only(stack: Stack) -> None:
    with stack.api() as api, stack.proxy() as proxy:
        assert api.get("/v1/status").status_code == 200
        assert api.get("/v1/status", headers={"Authorization": f"Bearer {stack.key}"}).status_code == 401
        assert proxy.get("/v1/models").status_code == 200
        assert proxy.get("/v1/models", headers={"x-api-key": stack.admin_key}).status_code == 401
