"""/v1/notifications: where messages are sent, what became of the last ones, and a test."""

from __future__ import annotations

import asyncio
import time

from bouchet_core.errors import StoreError
from bouchet_core.notices import MessageReport, NotificationReport, TargetStatus
from bouchet_core.tasks import NOTIFIER_HEARTBEAT
from fastapi import APIRouter
from pydantic import BaseModel, Field

from bouchet_api.dependencies import AppState, StateDep
from bouchet_api.problems import NotifierSilentError, TargetsMissingError

router = APIRouter(prefix="/v1/notifications", tags=["notifications"])

LISTED_MESSAGES = 20
# one try of each target ends within 25 s; that many may be under way before it
TEST_WAIT_S = 60.0
TEST_INTERVAL_S = 0.25
NOT_RUNNING = "the notifier has no recent heartbeat, so nothing is sent; `make up` starts it, `make logs` shows why"


class NotificationTest(BaseModel):
    """What became of a test message at each target."""

    test: MessageReport
    targets: tuple[TargetStatus, ...] = Field(description="the targets by number, without their secrets")


@router.get("")
def get_notifications(state: StateDep) -> NotificationReport:
    """Return where messages are sent, and what became of the last ones."""
    return notification_report(state)


@router.post("/test")
async def test_notifications(state: StateDep) -> NotificationTest:
    """Send a test message to each target, and wait for what becomes of it; 409 without a target."""
    report = await asyncio.to_thread(notification_report, state)
    if not report.configured:
        raise TargetsMissingError
    if not report.running:
        raise NotifierSilentError(NOT_RUNNING)
    notices = state.store.notices
    identity = await asyncio.to_thread(notices.request_test)
    deadline = time.monotonic() + TEST_WAIT_S
    while time.monotonic() < deadline:
        found = await asyncio.to_thread(notices.message, identity)
        if found is not None and found.is_settled:
            status = await asyncio.to_thread(notices.status)
            return NotificationTest(test=found, targets=status.targets if status else ())
        await asyncio.sleep(TEST_INTERVAL_S)
    raise NotifierSilentError(f"no result of the test within {TEST_WAIT_S:.0f} s; `bouchet notify` shows it later")


def notification_report(state: AppState) -> NotificationReport:
    """Return all that `bouchet notify` shows. Raises StoreError."""
    notices = state.store.notices
    if not state.notifies:
        return NotificationReport(configured=False)
    running, status = state.store.beats(NOTIFIER_HEARTBEAT), notices.status()
    problem = "" if running else NOT_RUNNING
    failing = [one for one in status.targets if one.problem] if status is not None and running else []
    if failing:
        problem = "; ".join(f"target {one.number}, {one.shown}: {one.problem}" for one in failing)
    return NotificationReport(
        configured=True,
        running=running,
        problem=problem,
        status=status,
        messages=tuple(notices.messages(LISTED_MESSAGES)),
    )


def notifications_problem(state: AppState) -> str:
    """Return what is wrong with notifications, empty where nothing is, or where the store does not answer."""
    try:
        return notification_report(state).problem
    except StoreError:
        return ""
