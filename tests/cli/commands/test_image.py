"""`bouchet image`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.batch_jobs import BatchJobState, JobStep

from tests.cli.harness import Bouchet, one_line_error

PIN = "cpu-0.32.0"
NOW = datetime.now(UTC)


def start_build(bouchet: Bouchet) -> str:
    """Start a build and return its id."""
    return str(json.loads(bouchet("image", "build", PIN, "--no-wait", "--json").out)["id"])


def interrupt() -> None:
    raise KeyboardInterrupt


def test_build_without_wait_records_its_options(bouchet: Bouchet) -> None:
    done = bouchet("image", "build", PIN, "--no-wait", "--from", "~/staged")
    assert done.status == 0
    record = bouchet.store.images.page(1)[0]
    assert record.id in done.out
    assert (record.pin, record.source, record.rebuild) == (PIN, "~/staged", False)


def test_verify_during_a_build_is_refused(bouchet: Bouchet) -> None:
    identity = start_build(bouchet)
    done = bouchet("image", "verify", PIN, "--no-wait")
    assert one_line_error(done, 1) and identity in done.err


def test_build_cancel_requests_the_end(bouchet: Bouchet) -> None:
    start_build(bouchet)
    assert bouchet("image", "build", PIN, "--cancel").status == 0
    assert bouchet.store.images.page(1)[0].stop_requested_at is not None


def test_build_cancel_of_an_ended_one_says_so(bouchet: Bouchet) -> None:
    identity = start_build(bouchet)
    bouchet.store.images.update(identity, lambda old: old.ended(NOW, BatchJobState.FAILED, "no network"))
    done = bouchet("image", "build", PIN, "--cancel")
    assert done.status == 0 and f"build of {PIN} has already ended" in done.out


def test_build_is_followed_to_its_end(bouchet: Bouchet) -> None:
    identity, update = start_build(bouchet), bouchet.store.images.update
    update(identity, lambda old: old.changed(NOW, state=BatchJobState.RUNNING, reason="packing", stage="squash"))

    def finish() -> None:
        update(identity, lambda old: old.ended(NOW, BatchJobState.DONE, "built in 99 s"))

    done = bouchet.reacting({"packing": finish}, "image", "build", PIN)
    assert done.status == 0 and f"{PIN}: built in 99 s" in done.out and "built" not in done.err


def job_steps(*names: str) -> tuple[JobStep, ...]:
    """Return steps of two seconds each."""
    return tuple(JobStep(name=name, at=NOW + timedelta(seconds=2 * number)) for number, name in enumerate(names))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_build_shows_each_step_once_also_those_already_over(bouchet: Bouchet, is_terminal: bool) -> None:
    identity, update = start_build(bouchet), bouchet.store.images.update
    running = {"state": BatchJobState.RUNNING, "reason": "testing"}
    update(identity, lambda old: old.changed(NOW, steps=job_steps("unpacking", "installing", "testing"), **running))

    def finish() -> None:
        steps = job_steps("unpacking", "installing", "testing", "packing", "hashing")
        update(identity, lambda old: old.changed(NOW, steps=steps).ended(NOW, BatchJobState.DONE, "built"))

    if is_terminal:
        with bouchet.terminal("image", "build", PIN) as tty:
            tty.until(f"{PIN}: unpacking (2s)")
            tty.until(f"{PIN}: installing (2s)")
            finish()
            status, rest = tty.rest()
        text = f"{PIN}: unpacking {PIN}: installing {rest}"
    else:
        done = bouchet.reacting({"running: testing": finish}, "image", "build", PIN)
        status, text = done.status, done.err
    shown = re.findall(rf"{PIN}: (\w+ing)", text)
    assert (status, shown) == (0, ["unpacking", "installing", "testing", "packing", "hashing"]), text


def test_failed_build_is_an_error_with_its_log(bouchet: Bouchet) -> None:
    identity = start_build(bouchet)

    def fail() -> None:
        ended = (NOW, BatchJobState.FAILED, "the disk is full")
        bouchet.store.images.update(identity, lambda old: old.changed(NOW, log="~/logs/7.log").ended(*ended))

    done = bouchet.reacting({"queued": fail}, "image", "build", PIN)
    assert done.status == 1 and "the disk is full (log: ~/logs/7.log)" in done.err


def test_ctrl_c_leaves_the_build_running(bouchet: Bouchet) -> None:
    done = bouchet.reacting({"queued": interrupt}, "image", "build", PIN)
    assert done.status == 130 and f"bouchet image build {PIN} --cancel" in done.err
    assert bouchet.store.images.page(1)[0].stop_requested_at is None


def test_remove_without_terminal_needs_yes(bouchet: Bouchet) -> None:
    done = bouchet("image", "remove", PIN)
    assert one_line_error(done, 2) and "--yes" in done.err


def test_remove_on_a_terminal_asks(bouchet: Bouchet) -> None:
    with bouchet.terminal("image", "remove", PIN) as tty:
        tty.until("[y/N]")
        tty.type("n\n")
        status, _ = tty.rest()
    assert status == 1


def test_build_of_an_unknown_pin_names_the_pins(bouchet: Bouchet) -> None:
    done = bouchet("image", "build", "cpu")
    assert one_line_error(done, 3) and PIN in done.err
