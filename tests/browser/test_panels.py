"""What else people do in the page: keep a deployment, download models, build images, see what is left of a budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_api.ledger.request_views import last_requests
from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel
from bouchet_core.policy import parse_budget
from bouchet_core.tasks import TaskName
from playwright.sync_api import Locator, Page, expect

from tests.api.ledger.entries import request
from tests.browser.conftest import OpenPage
from tests.browser.house import House, answered
from tests.fakes.running_api import queued_tasks
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
QWEN, DENSE = "aaaaaaaaaaaa", "Qwen/Qwen3-32B"
IMAGES = {"images": [{"pin": "cpu-0.32.0", "vllm": "0.32.0", "state": "missing"}], "problem": ""}
BUILT = {"images": [{"pin": "cpu-0.32.0", "vllm": "0.32.0", "state": "ready", "bytes": 635_000_000}], "problem": ""}


def test_each_test_begins_with_an_empty_ledger(house: House) -> None:
    assert house.api is not None
    database = house.api.state.ledger.database

    def rows() -> int:
        with database.read() as connection:
            return len(last_requests(connection, 100))

    house.store.usage.add([request()])
    wait_for(lambda: rows() == 1)
    house.reset()
    assert rows() == 0


def open_keep(page: Page, name: str = "bouchet-qwen3-coder-next") -> Locator:
    """Open the dialog that changes a deployment's policy."""
    page.get_by_role("button", name=f"Keep {name}").click()
    return page.get_by_role("dialog")


def test_keep_changes_how_long_a_deployment_is_kept_and_its_budget(open_page: OpenPage, house: House) -> None:
    page = open_page()
    dialog = open_keep(page)
    expect(dialog).to_contain_text("It is kept until it is cancelled.")
    dialog.get_by_label("Keep it").select_option("3 days")
    dialog.get_by_label("Budget").fill("40h/week")
    dialog.get_by_role("button", name="Change").click()
    expect(dialog).to_have_count(0)
    policy = house.store.get(QWEN).policy
    assert isinstance(policy.keep, datetime) and policy.budget == parse_budget("40h/week")
    assert timedelta(days=2.9) < policy.keep - datetime.now(UTC) < timedelta(days=3.1)
    # the page knows it, too: what is typed is the change alone
    expect(open_keep(page)).to_contain_text("It is kept until")
    page.get_by_role("dialog").get_by_label("or until").fill("fri 18:00")
    page.get_by_role("dialog").get_by_role("button", name="Change").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    changed = house.store.get(QWEN).policy
    assert changed.keep != policy.keep and changed.budget == policy.budget


@pytest.mark.parametrize(
    ("label", "text", "words"),
    [
        ("or until", "the day after", "the day after"),
        ("Budget", "<b>lots</b>", "<b>lots</b>"),
        ("Budget", "-3h/week", "-3h/week"),
    ],
)
def test_policy_that_cannot_be_is_refused_in_the_dialog(
    open_page: OpenPage, house: House, label: str, text: str, words: str
) -> None:
    page, before = open_page(), house.store.get(QWEN).policy
    dialog = open_keep(page)
    dialog.get_by_label(label).fill(text)
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_contain_text(words)
    expect(dialog.get_by_role("button", name="Change")).to_be_enabled()
    assert house.store.get(QWEN).policy == before


def test_on_demand_is_switched_on_and_an_empty_change_says_what_is_missing(open_page: OpenPage, house: House) -> None:
    page = open_page()
    dialog = open_keep(page)
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_contain_text("say how long it is kept")
    dialog.get_by_label("On demand").check()
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_contain_text("forever")
    dialog.get_by_label("Keep it").select_option("no longer than its job")
    dialog.get_by_role("button", name="Change").click()
    expect(dialog).to_have_count(0)
    assert house.store.get(QWEN).policy.on_demand


@pytest.fixture
def models(open_page: OpenPage, house: House) -> Page:
    """Open the models and images, with what the cluster has."""
    disk = {DENSE: DiskModel(state="partial", bytes=30_000_000_000, total_bytes=60_000_000_000)}
    house.store.downloads.keep_disk(DiskListing(models=disk, free_bytes=5_000_000_000_000, listed_at=datetime.now(UTC)))
    page = open_page()
    with answered(house.store, TaskName.LIST_IMAGES, IMAGES):
        page.goto(f"{house.url}/#models")
        expect(page.get_by_role("row", name="cpu-0.32.0")).to_contain_text("not there")
    return page


def test_download_is_started_followed_and_stopped(models: Page, house: House) -> None:
    expect(models.get_by_role("region", name="Models")).to_contain_text("free on the cluster")
    expect(models.get_by_role("row", name="bouchet-qwen3-32b")).to_contain_text("50 % of")
    models.get_by_role("button", name="Download bouchet-qwen3-32b").click()
    work = models.get_by_role("region", name="Under way")
    expect(work).to_contain_text(f"{DENSE} queued")
    [made] = house.store.downloads.page(5)
    assert (TaskName.DOWNLOAD, made.id) in queued_tasks(house.store)
    fields = {"state": BatchJobState.RUNNING, "bytes": 45_000_000_000, "total_bytes": 60_000_000_000, "eta_s": 600}
    house.store.downloads.update(made.id, lambda old: old.changed(datetime.now(UTC), **fields))
    expect(work).to_contain_text("10 min left")
    expect(models.get_by_role("row", name="bouchet-qwen3-32b")).to_contain_text("75 % of")
    work.get_by_role("button", name="Stop").click()
    wait_for(lambda: house.store.downloads.get(made.id).stop_requested_at)
    assert (TaskName.CANCEL_DOWNLOAD, made.id) in queued_tasks(house.store)
    end = (datetime.now(UTC), BatchJobState.CANCELLED, "cancelled; what is there stays")
    house.store.downloads.update(made.id, lambda old: old.ended(*end))
    expect(work).to_have_count(0)


def test_download_that_failed_says_why_until_another_one_begins(models: Page, house: House) -> None:
    models.get_by_role("button", name="Download bouchet-qwen3-32b").click()
    expect(models.get_by_role("region", name="Under way")).to_contain_text(DENSE)
    [made] = house.store.downloads.page(5)
    why = "the quota of <b>scratch</b> is used up\x1b[31m; remove something"
    house.store.downloads.update(made.id, lambda old: old.ended(datetime.now(UTC), BatchJobState.FAILED, why))
    failed = models.get_by_role("region", name="Under way")
    expect(failed).to_contain_text("failed")
    expect(failed).to_contain_text("the quota of <b>scratch</b> is used up")
    expect(failed.get_by_role("button", name="Stop")).to_have_count(0)
    assert "\x1b" not in models.inner_text("main")
    models.get_by_role("button", name="Download bouchet-qwen3-32b").click()
    expect(failed).to_contain_text("queued")
    expect(failed).not_to_contain_text("quota")


def test_image_is_built_stopped_and_shown_once_it_is_there(models: Page, house: House) -> None:
    models.get_by_role("button", name="Build cpu-0.32.0").click()
    work = models.get_by_role("region", name="Under way")
    expect(work).to_contain_text("cpu-0.32.0 build, queued")
    [made] = house.store.images.page(5)
    assert (TaskName.IMAGE, made.id) in queued_tasks(house.store)
    running = {"state": BatchJobState.RUNNING, "stage": "packages"}
    house.store.images.update(made.id, lambda old: old.changed(datetime.now(UTC), **running))
    expect(work).to_contain_text("build, packages")
    work.get_by_role("button", name="Stop").click()
    wait_for(lambda: house.store.images.get(made.id).stop_requested_at)
    with answered(house.store, TaskName.LIST_IMAGES, BUILT):
        end = (datetime.now(UTC), BatchJobState.DONE, "built in 57 s")
        house.store.images.update(made.id, lambda old: old.ended(*end))
        expect(models.get_by_role("row", name="cpu-0.32.0")).to_contain_text("ready, 606 MiB")


def test_images_that_cannot_be_listed_say_why(open_page: OpenPage, house: House) -> None:
    page = open_page()
    with answered(house.store, TaskName.LIST_IMAGES, {"images": [], "problem": "no SSH connection: `bouchet tunnel`"}):
        page.goto(f"{house.url}/#models")
        expect(page.get_by_role("region", name="Container images")).to_contain_text("no SSH connection")
    expect(page.get_by_role("region", name="Models")).to_contain_text("bouchet-qwen3-32b")


@pytest.mark.parametrize(("budget", "text"), [("400h/month", "400.0 GPU h (100 %)"), ("", None)])
def test_what_is_left_of_the_budget_is_in_the_account(
    open_page: OpenPage, house: House, budget: str, text: str | None
) -> None:
    assert house.api is not None
    state = house.api.app.state.bouchet
    house.api.app.state.bouchet = replace(state, budget=parse_budget(budget) if budget else None)
    try:
        page = open_page()
        account = page.get_by_role("region", name="the account")
        expect(account).to_contain_text("this month")
        if text is None:
            expect(account).not_to_contain_text("left this month")
        else:
            expect(account).to_contain_text(f"left this month{text}")
    finally:
        house.api.app.state.bouchet = state


@pytest.mark.parametrize("address", ["#%", "#logs/%E0%A4%A", "#nothing", "#constructor", "#logs/../../v1/keys"])
def test_address_that_means_nothing_shows_a_page_all_the_same(open_page: OpenPage, house: House, address: str) -> None:
    page = open_page()
    page.goto(f"{house.url}/{address}")
    page.reload()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    expect(page.get_by_role("main")).not_to_contain_text("Opening.")
