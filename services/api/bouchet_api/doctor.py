"""The api's half of `bouchet doctor`: Redis, worker, tunnel; the rest is the worker's to say."""

from __future__ import annotations

from collections.abc import Iterator

from bouchet_core.doctor import DoctorCheck, Verdict
from bouchet_core.errors import BouchetError
from bouchet_core.tasks import HEARTBEAT, TaskName
from bouchet_core.tunnel import TunnelState, TunnelStatus

from .dependencies import Parts

# some ten questions to Slurm, each of which may have to wait for its turn
WAIT_S = 75.0
LOGS = "`make logs` says why; `make up` starts it anew"


def checks_of(parts: Parts) -> Iterator[DoctorCheck]:
    """All checks but those of the machine that the stack runs on. Never raises what a check can say."""
    redis = _redis(parts)
    yield redis
    worker = _worker(parts) if redis.verdict is Verdict.PASS else _check("stack", "worker", "unknown", "Redis is down")
    yield worker
    ssh = list(_ssh(parts))
    yield from ssh
    broken = next((c for c in (redis, worker, *ssh) if c.verdict is Verdict.FAIL), None)
    if broken is None:
        yield from _cluster(parts)
    else:
        said = f"was not looked at: {broken.area}, {broken.name}: {broken.message}"
        yield _check("slurm", "cluster", "unknown", said, broken.fix)


def _redis(parts: Parts) -> DoctorCheck:
    try:
        parts.store.ping()
    except BouchetError as exc:
        return _check("stack", "redis", "fail", str(exc), LOGS)
    return _check("stack", "redis", "pass", "answers")


def _worker(parts: Parts) -> DoctorCheck:
    try:
        beats = parts.store.beats(HEARTBEAT)
    except BouchetError as exc:
        return _check("stack", "worker", "unknown", str(exc), LOGS)
    if not beats:
        return _check("stack", "worker", "fail", "has not said lately that it lives", LOGS)
    return _check("stack", "worker", "pass", "its heartbeat is fresh")


def _ssh(parts: Parts) -> Iterator[DoctorCheck]:
    try:
        tunnel = parts.gateway.status()
    except BouchetError as exc:
        yield _check("ssh", "gateway", "fail", str(exc), LOGS)
        return
    yield tunnel_check(tunnel)
    if tunnel.host_key is not None:
        said = f"{tunnel.host} shows a host key that is not known here: {tunnel.host_key.fingerprint}"
        fix = "compare it with what the site publishes, then `bouchet tunnel --trust`"
        yield _check("ssh", "host key", "fail", said, fix)
    elif tunnel.state is TunnelState.UP:
        yield _check("ssh", "host key", "pass", f"{tunnel.host}'s is a known one")


def tunnel_check(tunnel: TunnelStatus) -> DoctorCheck:
    """The state of the connection. Pure."""
    why = f": {tunnel.detail}" if tunnel.detail else ""
    match tunnel.state:
        case TunnelState.UP:
            trip = f", {tunnel.round_trip_ms:.0f} ms there and back" if tunnel.round_trip_ms is not None else ""
            lost = f"; mended {tunnel.reconnects} times" if tunnel.reconnects else ""
            return _check("ssh", "tunnel", "pass", f"up to {tunnel.host} since {tunnel.since:%F %R} UTC{trip}{lost}")
        case TunnelState.NEEDS_HUMAN:
            said = f"the login to {tunnel.host} waits for you (Duo, passphrase){why}"
            return _check("ssh", "tunnel", "fail", said, "`bouchet tunnel`")
        case TunnelState.REFUSED:
            fix = f"see that `ssh {tunnel.host}` works and `ssh-add -l` lists the key, then `bouchet tunnel --connect`"
            return _check("ssh", "tunnel", "fail", f"{tunnel.host} refused the login{why}", fix)
        case TunnelState.CONNECTING:
            return _check("ssh", "tunnel", "fail", f"is being opened to {tunnel.host}{why}", "ask again in a moment")
        case TunnelState.DOWN:
            fix = f"see that the network (VPN) and `ssh {tunnel.host}` work, then `bouchet tunnel --connect`"
            return _check("ssh", "tunnel", "fail", f"down{why}", fix)


def _cluster(parts: Parts) -> Iterator[DoctorCheck]:
    try:
        answers = parts.tasks.ask(TaskName.DOCTOR, wait_s=WAIT_S)
        yield from (DoctorCheck.model_validate(answer) for answer in answers)
    except BouchetError as exc:
        yield _check("slurm", "cluster", "unknown", str(exc), "`bouchet doctor` again; `make logs` says more")


def _check(area: str, name: str, verdict: str, said: str, fix: str = "") -> DoctorCheck:
    return DoctorCheck(area=area, name=name, verdict=Verdict(verdict), message=said, fix=fix)
