"""What people do in the dashboard: launch, answer a login, read a log, cancel, chat; and what comes from outside."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Ending, Job, Phase
from bouchet_core.deployments.attached import AttachedServer
from bouchet_core.tasks import TaskName
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, sign_in
from tests.browser.house import LOG, House, answered_preview
from tests.browser.scene import record
from tests.fakes.running_api import queued_tasks
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=window.bad=1>\x1b[31m\u202e<script>window.bad=1</script>"


def test_launch_shows_what_it_would_submit_first(open_page: OpenPage, house: House) -> None:
    page = open_page()
    page.get_by_role("button", name="Launch a model").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("Wrong Name")
    dialog.get_by_role("button", name="Preview").click()
    expect(dialog.get_by_role("alert")).to_contain_text("name: must be lower-case letters")
    dialog.get_by_label("Name", exact=True).fill("mine")
    dialog.get_by_label("Model").select_option("Qwen/Qwen3-32B")
    with answered_preview(house.store):
        dialog.get_by_role("button", name="Preview").click()
        expect(dialog.get_by_label("What would be submitted")).to_be_visible()
    assert len(house.store.live()) == 4, "a preview submits nothing"
    dialog.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("article", name="mine, requested")).to_be_visible()
    assert (TaskName.SUBMIT in {task for task, _ in queued_tasks(house.store)}) and not dialog.is_visible()


def test_login_prompt_is_answered_in_the_page(open_page: OpenPage, house: House) -> None:
    page = open_page()
    house.gateway.ask("p1", "Passcode or option (1-3): ")
    form = page.get_by_role("alert").filter(has_text="asks who you are")
    expect(form).to_be_visible()
    assert form.get_by_label("Passcode or option").get_attribute("type") == "password"
    form.get_by_label("Passcode or option").fill("123456")
    form.get_by_role("button", name="Send").click()
    expect(form).to_have_count(0)
    assert house.gateway.answers == [["123456"]] and "123456" not in page.content()


def test_host_key_is_shown_and_trusted_and_a_changed_one_is_not(open_page: OpenPage, house: House) -> None:
    page = open_page()
    house.gateway.offer("SHA256:abc")
    page.get_by_role("button", name="trust it").click()
    expect(page.get_by_text("A new host key")).to_have_count(0)
    house.gateway.offer("SHA256:evil", changed=True)
    expect(page.get_by_text("The host key has changed")).to_be_visible()
    assert page.get_by_role("button", name="trust it").count() == 0


def test_log_streams_and_its_escapes_and_markup_are_text(open_page: OpenPage, house: House) -> None:
    page = open_page()
    page.get_by_role("button", name="Log of bouchet-qwen3-coder-next").click()
    lines = page.locator("#lines")
    expect(lines).to_contain_text("\\x1b[31mred\\x1b[0m <script>window.bad=1</script>")
    house.gateway.files[LOG] += b"one more line\n"
    expect(lines).to_contain_text("one more line")
    assert lines.locator("li").count() == 42
    assert page.evaluate("window.bad") is None


def test_cancel_asks_and_then_cancels(open_page: OpenPage, house: House) -> None:
    page = open_page()
    page.get_by_role("button", name="Cancel bouchet-kimi-k2").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("releases the GPUs")
    dialog.get_by_role("button", name="Cancel it").click()
    card = page.get_by_role("article").filter(has_text="bouchet-kimi-k2")
    expect(card).to_contain_text("being cancelled")
    assert house.store.get("cccccccccccc").stop_requested_at is not None
    assert (TaskName.CANCEL, "cccccccccccc") in queued_tasks(house.store)


def test_attached_server_is_shown_as_not_ours_and_only_detached(open_page: OpenPage, house: House) -> None:
    now = datetime.now(UTC)
    place = Job(name="attached-dd", slot=3, phase=Phase.READY, node="node7", port=8000, sealed_key="attached:")
    fields = {"attached": AttachedServer(model="org/theirs"), "phase": Phase.READY, "jobs": (place,)}
    page = open_page()
    house.store.create(record("eeeeeeeeeeee", "org/theirs", ("theirs",), now, **fields))
    card = page.get_by_role("article").filter(has_text="attached, not ours, never cancelled")
    expect(card).to_contain_text("node7:8000")
    expect(card.get_by_role("button", name="Keep")).to_have_count(0)
    card.get_by_role("button", name="Detach theirs").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The server is not ours")
    dialog.get_by_role("button", name="Detach it").click()
    expect(card).to_have_count(0)
    assert house.store.get("eeeeeeeeeeee").ending is Ending.DETACHED
    ended = page.locator("details.ended li").filter(has_text="theirs")
    expect(ended).to_contain_text("detached")
    assert ended.locator("button").count() == 0, "it has no log here, and cannot be launched"


def ask_model(page: Page, question: str) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


def test_chat_shows_markdown_as_elements_and_markup_as_text(open_page: OpenPage, house: House) -> None:
    page = open_page("/#chat")
    page.goto(f"{house.url}/#chat")
    ask_model(page, "SAY[# Title\n\nsome **bold** and `code`\n\n- one\n- two\n\n<img src=x onerror=window.bad=1>]")
    talk = page.get_by_role("log")
    expect(talk.locator("strong")).to_have_text("bold")
    expect(talk.locator(".turn:not(.user) li")).to_have_count(2)
    expect(talk).to_contain_text("first token after")
    assert page.evaluate("window.bad") is None and talk.locator("img").count() == 0
    page.get_by_role("button", name="Again").click()
    expect(talk.locator(".turn:not(.user) strong")).to_have_text("bold")
    expect(talk.locator(".turn")).to_have_count(2)


def test_chat_is_stopped_and_its_request_is_listed_meanwhile(open_page: OpenPage, house: House) -> None:
    page, other = open_page(), open_page()
    page.goto(f"{house.url}/#chat")
    ask_model(page, f"SAY[{'word ' * 400}] PACE[0.05]")
    expect(page.get_by_role("log")).to_contain_text("word word")
    requests = other.get_by_role("region", name="Live requests")
    expect(requests).to_contain_text("dashboard")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("log")).to_contain_text("stopped")
    expect(requests).to_contain_text("No request is open")


def test_chat_with_a_model_that_does_not_run_says_why(open_page: OpenPage, house: House) -> None:
    page = open_page()
    page.goto(f"{house.url}/#chat")
    house.store.update("aaaaaaaaaaaa", lambda one: one.asked_to_stop(datetime.now(UTC)))
    ask_model(page, "REFUSE[503]")
    expect(page.get_by_role("alert").last).not_to_be_empty()


def test_hostile_names_and_reasons_are_text(open_page: OpenPage, house: House) -> None:
    made = record("eeeeeeeeeeee", HOSTILE[:90], (HOSTILE,), datetime.now(UTC), phase=Phase.REQUESTED, reason=HOSTILE)
    house.store.create(made)
    page = open_page()
    expect(page.get_by_role("article").filter(has_text="<img src=x onerror=window.bad=1>")).to_be_visible()
    house.gateway.tunnel = {**house.gateway.tunnel, "state": "refused", "detail": HOSTILE}
    expect(page.get_by_role("alert")).to_contain_text("<script>window.bad=1</script>")
    assert page.evaluate("window.bad") is None and page.locator("main img, main script").count() == 0
    assert "\x1b" not in page.inner_text("main") and "\u202e" not in page.inner_text("main")


def test_key_is_made_shown_once_and_revoked(open_page: OpenPage, house: House) -> None:
    page = open_page()
    page.goto(f"{house.url}/#keys")
    page.get_by_label("Name", exact=True).fill("alice")
    page.get_by_label("Expires in").fill("500d")
    page.get_by_label("Requests a minute").fill("6000")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_text("shown this once")).to_be_visible()
    year = (datetime.now(UTC) + timedelta(days=500)).year
    expect(page.get_by_role("row", name="alice")).to_contain_text(f"{year} ")
    expect(page.get_by_role("row", name="alice")).to_contain_text("6,000")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke alice").click()
    expect(page.get_by_role("button", name="Revoke alice")).to_have_count(0)
    assert house.store.api_keys.all() == []


def test_lost_api_is_announced_and_found_again(open_page: OpenPage, house: House) -> None:
    page = open_page()
    expect(page.get_by_role("article")).to_have_count(4)
    house.stop_api()
    expect(page.get_by_role("alert")).to_contain_text("The API does not answer")
    expect(page.get_by_role("article")).to_have_count(4)
    house.store.update("cccccccccccc", lambda one: one.asked_to_stop(datetime.now(UTC)))
    thread = threading.Thread(target=house.start_api)
    thread.start()
    thread.join()
    expect(page.get_by_text("The API does not answer")).to_have_count(0)
    expect(page.get_by_role("article").filter(has_text="being cancelled")).to_be_visible()


# in place of the desktop, which a browser without a window does not have; the page's own code asks and shows
RECORDED_NOTIFICATIONS = """
window.shown = []; window.asked = 0;
window.Notification = class { constructor(title, options) { window.shown.push(`${title}: ${options.body}`); } };
window.Notification.permission = "default";
window.Notification.requestPermission = async () => {
  window.asked += 1;
  return (window.Notification.permission = "granted");
};
Object.defineProperty(document, "hidden", { get: () => true });
"""


def test_browser_notifies_only_after_a_click_and_until_it_is_switched_off(open_page: OpenPage, house: House) -> None:
    page = open_page(key="")
    page.add_init_script(RECORDED_NOTIFICATIONS)
    page.reload()
    sign_in(page)
    switch = page.get_by_role("switch", name="Notify")
    expect(switch).to_have_attribute("aria-checked", "false")
    house.gateway.ask("p1", "Passcode: ")
    expect(page.get_by_role("alert").filter(has_text="asks who you are")).to_be_visible()
    assert page.evaluate("[window.asked, window.shown.length]") == [0, 0], "nothing asks without a click"
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    loading = next(one for one in house.store.live() if one.phase in (Phase.QUEUED, Phase.STARTING))
    now = datetime.now(UTC)
    for phase in (Phase.STARTING, Phase.READY):
        house.store.update(loading.id, lambda old, to=phase: old.with_attempt(old.attempt(None).moved(to, now)))  # type: ignore[misc]
    assert wait_for(lambda: page.evaluate("window.shown")) == [f"bouchet: {loading.alias} is ready."]
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "false")
    assert page.evaluate("window.asked") == 1
