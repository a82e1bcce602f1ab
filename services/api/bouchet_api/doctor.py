"""The API's checks of `bouchet doctor`: Redis, worker and tunnel. The worker checks the cluster."""

from __future__ import annotations

from collections.abc import Iterator

from bouchet_core.doctor import DoctorCheck, Verdict
from bouchet_core.errors import BouchetError
from bouchet_core.store.usage import MEMORY_SHARE
from bouchet_core.tasks import HEARTBEAT, TaskName
from bouchet_core.tunnel import TunnelState, TunnelStatus

from .dependencies import AppState
from .ledger.consumer import waiting_entries
from .routes.notifications import notification_report

# about ten Slurm commands, each of which may wait for a command slot
WAIT_S = 75.0
LOGS = "`make logs` shows the cause; `make up` restarts it"


def run_checks(state: AppState) -> Iterator[DoctorCheck]:
    """Yield all checks except those of the local machine. Errors become failed or unknown checks."""
    redis = _check_redis(state)
    yield redis
    worker = _check_worker(state) if redis.verdict is not Verdict.FAIL else _unknown("stack", "worker", "Redis is down")
    yield worker
    if redis.verdict is not Verdict.FAIL:
        yield _check_records(state)
    yield _check_ledger(state)
    if redis.verdict is not Verdict.FAIL:
        yield _check_notifier(state)
    ssh = list(_check_ssh(state))
    yield from ssh
    failed = next((c for c in (redis, worker, *ssh) if c.verdict is Verdict.FAIL), None)
    if failed is None:
        yield from _check_cluster(state)
    else:
        yield _unknown("slurm", "cluster", f"not checked: {failed.area}, {failed.name}: {failed.message}", failed.fix)


def tunnel_check(tunnel: TunnelStatus) -> DoctorCheck:
    """Return the check of the SSH connection."""
    why = f": {tunnel.detail}" if tunnel.detail else ""
    if tunnel.waiting_requests:
        why += "; 1 request waits" if tunnel.waiting_requests == 1 else f"; {tunnel.waiting_requests} requests wait"
    match tunnel.state:
        case TunnelState.UP:
            trip = f", round trip {tunnel.round_trip_ms:.0f} ms" if tunnel.round_trip_ms is not None else ""
            times = f"{tunnel.reconnects} time{'s' if tunnel.reconnects > 1 else ''}"
            again = f", reconnected {times}" if tunnel.reconnects else ""
            return _pass("ssh", "tunnel", f"connected to {tunnel.host} since {tunnel.since:%F %R} UTC{trip}{again}")
        case TunnelState.NEEDS_HUMAN:
            message = f"the login to {tunnel.host} waits for you (Duo, passphrase){why}"
            return _fail("ssh", "tunnel", message, "run `bouchet tunnel`")
        case TunnelState.REFUSED:
            fix = (
                f"check that `ssh {tunnel.host}` works and `ssh-add -l` lists the key, then `bouchet tunnel --connect`"
            )
            return _fail("ssh", "tunnel", f"{tunnel.host} refused the login{why}", fix)
        case TunnelState.CONNECTING:
            return _fail("ssh", "tunnel", f"connecting to {tunnel.host}{why}", "try again in a moment")
        case TunnelState.DOWN:
            fix = f"check the network (VPN) and that `ssh {tunnel.host}` works, then `bouchet tunnel --connect`"
            return _fail("ssh", "tunnel", f"not connected to {tunnel.host}{why}", fix)


def _check_redis(state: AppState) -> DoctorCheck:
    try:
        state.store.ping()
        used, most = state.store.usage.memory()
    except BouchetError as exc:
        return _fail("stack", "redis", str(exc), LOGS)
    if most and used > most * MEMORY_SHARE:
        message = f"uses {used >> 20} of {most >> 20} MiB, so usage is not recorded"
        fix = "nothing is lost but usage; sums of sessions expire within a day, other sums within 31"
        return DoctorCheck(area="stack", name="redis", verdict=Verdict.WARN, message=message, fix=fix)
    return _pass("stack", "redis", "reachable")


def _check_records(state: AppState) -> DoctorCheck:
    try:
        unreadable = state.store.all_unreadable()
    except BouchetError as exc:
        return _unknown("stack", "records", str(exc), LOGS)
    if not unreadable:
        return _pass("stack", "records", "all can be read")
    message = "; ".join(f"{one.kind} {one.id} cannot be read ({one.problem})" for one in unreadable)
    fix = "start the version of bouchet-llm that stored them; until then they keep their names and slots"
    return DoctorCheck(area="stack", name="records", verdict=Verdict.WARN, message=message, fix=fix)


def _check_ledger(state: AppState) -> DoctorCheck:
    """Check the database of the ledger; requests are served without it, so its absence is a warning."""
    problem = state.ledger.database.problem() or state.ledger.consumer.problem
    lost, waiting = state.ledger.consumer.counts.lost, waiting_entries(state.store)
    if problem:
        message = f"{problem}; {waiting if waiting is not None else 'some'} entries wait in Redis"
        fix = "requests are served meanwhile; Redis keeps the newest 50,000 entries"
        return DoctorCheck(area="stack", name="ledger", verdict=Verdict.WARN, message=message, fix=fix)
    if lost:
        message = f"{lost} entries were dropped by Redis before they were in the database"
        fix = "the sums of `bouchet usage` lack them; the database did not work for too long"
        return DoctorCheck(area="stack", name="ledger", verdict=Verdict.WARN, message=message, fix=fix)
    database = "SQLite" if state.ledger.database.is_sqlite else state.ledger.database.shown
    return _pass("stack", "ledger", f"requests and GPU hours are in {database}")


def _check_notifier(state: AppState) -> DoctorCheck:
    """Check that messages have a target and reach it; nothing else depends on that, so a failure is a warning."""
    try:
        report = notification_report(state)
    except BouchetError as exc:
        return _unknown("stack", "notifier", str(exc), LOGS)
    if not report.configured:
        return _pass("stack", "notifier", "not started: NOTIFY_URLS in .env names no target")
    if report.problem:
        message, _, fix = report.problem.partition("; ") if not report.running else (report.problem, "", "")
        fix = fix or "correct NOTIFY_URLS in .env and run `make up`; then `bouchet notify test`"
        return DoctorCheck(area="stack", name="notifier", verdict=Verdict.WARN, message=message, fix=fix)
    targets = report.status.targets if report.status is not None else ()
    return _pass("stack", "notifier", f"sends to {', '.join(one.shown for one in targets)}")


def _check_worker(state: AppState) -> DoctorCheck:
    try:
        alive = state.store.beats(HEARTBEAT)
    except BouchetError as exc:
        return _unknown("stack", "worker", str(exc), LOGS)
    if not alive:
        return _fail("stack", "worker", "no recent heartbeat", LOGS)
    return _pass("stack", "worker", "recent heartbeat")


def _check_ssh(state: AppState) -> Iterator[DoctorCheck]:
    try:
        tunnel = state.tunnel()
    except BouchetError as exc:
        yield _fail("ssh", "gateway", str(exc), LOGS)
        return
    yield tunnel_check(tunnel)
    if tunnel.host_key is not None:
        message = f"unknown host key of {tunnel.host}: {tunnel.host_key.fingerprint}"
        fix = "compare it with the fingerprint that the site publishes, then run `bouchet tunnel --trust`"
        yield _fail("ssh", "host key", message, fix)
    elif tunnel.state is TunnelState.UP:
        yield _pass("ssh", "host key", f"the host key of {tunnel.host} is known")


def _check_cluster(state: AppState) -> Iterator[DoctorCheck]:
    try:
        checks = state.tasks.query(TaskName.DOCTOR, wait_s=WAIT_S)
        yield from (DoctorCheck.model_validate(check) for check in checks)
    except BouchetError as exc:
        yield _unknown("slurm", "cluster", str(exc), "run `bouchet doctor` again; `make logs` shows more")


def _pass(area: str, name: str, message: str) -> DoctorCheck:
    return DoctorCheck(area=area, name=name, verdict=Verdict.PASS, message=message)


def _fail(area: str, name: str, message: str, fix: str) -> DoctorCheck:
    return DoctorCheck(area=area, name=name, verdict=Verdict.FAIL, message=message, fix=fix)


def _unknown(area: str, name: str, message: str, fix: str = "") -> DoctorCheck:
    return DoctorCheck(area=area, name=name, verdict=Verdict.UNKNOWN, message=message, fix=fix)
