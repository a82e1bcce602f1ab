"""`bouchet setup` to the first answer, stopped with Ctrl-C at each of its steps: the next run goes on from there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bouchet_api.task_client import TaskClient
from bouchet_cli.commands.setup import STEPS
from bouchet_cli.guide.answers import KeptAnswers
from bouchet_cli.guide.cluster import MODEL_QUESTION, BuildImage, ChooseModel, DownloadWeights, LaunchModel
from bouchet_cli.guide.step import GuideStep
from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_core.tasks import TaskName

from tests.cli.harness import QWEN, TO_READY, Bouchet, Done, advance, end

PIN = "cpu-0.32.0"
# the step that asks for each answer
KEPT_AFTER = {"cluster": 1, "user": 1, "project-dir": 5, "model": 9}
NO_NETWORK = "the node cannot reach the network (no such host); stage it: `bouchet image build PIN --from FOLDER`"


class QuickCluster:
    """The worker and the cluster behind it: a build, a download or a launch is over soon after it was requested."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closing, self._paused = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.reason = ""

    def __enter__(self) -> QuickCluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def pause(self) -> None:
        """Leave jobs as they are, until `go_on`."""
        self._paused.set()

    def go_on(self) -> None:
        self._paused.clear()

    def images(self) -> dict[str, object]:
        """Return what the worker finds on the cluster."""
        built = any(job.state == BatchJobState.DONE for job in self._store.images.page(5))
        row = {"pin": PIN, "is_default": True, "state": "ready" if built else "missing"}
        return {"images": [row]}

    def _run(self) -> None:
        while not self._closing.wait(0.05):
            if not self._paused.is_set():
                self._advance()

    def _advance(self) -> None:
        now = datetime.now(UTC)
        state, reason = (BatchJobState.FAILED, self.reason) if self.reason else (BatchJobState.DONE, "done")
        for jobs in (self._store.images, self._store.downloads):
            for job in jobs.page(5):
                if job.is_live:
                    jobs.update(job.id, lambda old: old.ended(now, state, reason))
        ended = [job.model for job in self._store.downloads.page(5) if not job.is_live]
        ready = {model: DiskModel(state="ready", bytes=1) for model in ended}
        self._store.downloads.keep_disk(DiskListing(models=ready, listed_at=now))
        for record in self._store.live():
            if record.phase is Phase.REQUESTED:
                advance(self._store, record.id, *TO_READY)


@pytest.fixture
def cluster(person: Bouchet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuickCluster]:
    """Yield a cluster that does what it is asked to, and let `make up` succeed."""
    make = tmp_path / "bin" / "make"
    make.write_text(make.read_text().replace('test "$last" = env && ', 'test "$last" = up || ') + "exit 0\n")
    (tmp_path / "id").write_text("a key")
    with QuickCluster(person.store) as cluster:

        def query(_: TaskClient, task: TaskName, *arguments: object, wait_s: float = 0.0) -> object:
            assert task is TaskName.LIST_IMAGES
            return cluster.images()

        monkeypatch.setattr(TaskClient, "query", query)
        yield cluster


def answers(folder: Path, first_step: int = 1) -> list[str]:
    """Return the answers that a run which was stopped at this step has not kept."""
    given = {"cluster": "yale", "user": "me", "project-dir": f"{folder}/project_pi_ab12/me", "model": QWEN}
    return [word for name, value in given.items() if KEPT_AFTER[name] >= first_step for word in (f"--{name}", value)]


def interrupt() -> None:
    raise KeyboardInterrupt


def is_complete(done: Done) -> bool:
    return done.status == 0 and "bouchet-qwen3-32b: " in done.out


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_ctrl_c_at_each_step_is_gone_on_from(
    person: Bouchet, cluster: QuickCluster, tmp_path: Path, number: int
) -> None:
    head = f"{number}/{len(STEPS)} {STEPS[number - 1].title}"
    stopped = person.reacting({head: interrupt}, "setup", "--yes", *answers(tmp_path))
    assert stopped.status == 130 and "`bouchet setup` goes on from here" in stopped.err, stopped.err
    again = person("setup", "--yes", *answers(tmp_path, number))
    assert is_complete(again), again.err
    # logging in and `make up` are repeated, they cost seconds
    repeated = {3, 6}
    for step in range(1, number):
        if step not in repeated:
            assert f"{step}/{len(STEPS)} {STEPS[step - 1].title}: done" in again.err
    assert [record.model for record in person.store.live()] == [QWEN]
    assert len(person.store.images.page(9)) == len(person.store.downloads.page(9)) == 1


LONG: dict[type[GuideStep], str] = {
    BuildImage: f"{PIN} queued",
    DownloadWeights: f"{QWEN} queued",
    LaunchModel: "bouchet-qwen3-32b requested",
}


@pytest.mark.parametrize("step", LONG, ids=lambda step: step.__name__)
def test_ctrl_c_in_a_long_step_leaves_its_job_running(
    person: Bouchet, cluster: QuickCluster, tmp_path: Path, step: type[GuideStep]
) -> None:
    reached = f"{STEPS.index(step) + 1}/{len(STEPS)} {step.title}"
    steps = {reached: cluster.pause, LONG[step]: interrupt}
    stopped = person.reacting(steps, "setup", "--yes", *answers(tmp_path))
    assert stopped.status == 130, stopped.err
    model = answers(tmp_path, 9) if step is BuildImage else []
    # it follows the same job
    again = person.reacting({LONG[step]: cluster.go_on}, "setup", "--yes", *model)
    assert is_complete(again), again.err
    if not model:
        assert f"{ChooseModel.title}: done" in again.err
    records = (person.store.images.page(9), person.store.downloads.page(9), person.store.live())
    assert [len(found) for found in records] == [1, 1, 1]


def test_ctrl_c_after_any_answer_keeps_it(person: Bouchet, cluster: QuickCluster, tmp_path: Path) -> None:
    """Each run answers one question and is stopped at the next: nothing is asked twice."""
    typed = (
        ("Your cluster", "1"),
        ("Your user name", "me"),
        ("(yes/no)", "yes"),
        ("Directory for weights", f"{tmp_path}/project_pi_ab12/me"),
        (MODEL_QUESTION, "bouchet-qwen3-coder-next"),
    )
    reached = [*(question for question, _ in typed[1:]), DownloadWeights.title]
    for (question, answer), following in zip(typed, reached, strict=True):
        # an image that is being built is done when the next run looks at it
        cluster.go_on()
        with person.terminal("setup") as tty:
            tty.until(question)
            cluster.pause()
            tty.type(f"{answer}\n")
            tty.until(BuildImage.title if following == MODEL_QUESTION else following)
            tty.type("\x03")
            status, shown = tty.rest()
        assert status == 130, shown
    cluster.go_on()
    done = person("setup")
    assert done.status == 0 and "bouchet-qwen3-coder-next: " in done.out, done.err
    assert [record.model for record in person.store.live()] == ["Qwen/Qwen3-Coder-Next-FP8"]
    assert not list(tmp_path.glob("*.setup"))


def test_an_answer_that_a_step_fails_with_is_asked_for_again(person: Bouchet, tmp_path: Path) -> None:
    answers = ("--cluster", "yale", "--user", "me", "--yes")
    refused = person("setup", *answers, "--project-dir", "/a b")
    assert refused.status == 1 and "is not a path" in refused.err
    with person.terminal("setup") as tty:
        tty.until("Directory for weights")


def test_a_model_that_is_unknown_is_asked_for_again(person: Bouchet, cluster: QuickCluster, tmp_path: Path) -> None:
    refused = person("setup", "--yes", *answers(tmp_path)[:-1], "no/such-model")
    assert refused.status != 0 and "bouchet models add" in refused.err
    assert is_complete(person("setup", "--model", QWEN))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "yale"}', '{"host": "other", "answers": {"Model": "m"}}'])
def test_kept_answers_of_another_cluster_or_version_do_not_count(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kept"
    path.write_text(text)
    kept = KeptAnswers(path, "yale")
    assert kept.get("Model") == ""
    kept.keep("Model", "m")
    assert kept.get("Model") == "m" and path.stat().st_mode & 0o777 == 0o600
    kept.forget(["Model"])
    assert kept.get("Model") == ""
    kept.clear()
    kept.clear()


def test_complete_setup_asks_nothing_and_starts_nothing(person: Bouchet, cluster: QuickCluster, tmp_path: Path) -> None:
    assert is_complete(person("setup", *answers(tmp_path), "--yes"))
    again = person("setup")
    assert is_complete(again), again.err
    assert len(person.store.live()) == len(person.store.images.page(9)) == len(person.store.downloads.page(9)) == 1


def test_another_model_can_be_named_later(person: Bouchet, cluster: QuickCluster, tmp_path: Path) -> None:
    assert is_complete(person("setup", *answers(tmp_path), "--yes"))
    other = person("setup", "--model", "bouchet-qwen3-coder-next")
    assert other.status == 0 and "bouchet-qwen3-coder-next: " in other.out, other.err
    assert len(person.store.live()) == 2


def test_nodes_without_network_are_a_sentence_with_the_way_on(
    person: Bouchet, cluster: QuickCluster, tmp_path: Path
) -> None:
    cluster.reason = NO_NETWORK
    done = person("setup", *answers(tmp_path), "--yes")
    assert done.status == 1 and NO_NETWORK in done.err and "then run `bouchet setup` again" in done.err
    cluster.reason = ""
    # staged and built by hand
    assert person("image", "build", PIN, "--from", "~/staged").status == 0
    again = person("setup", *answers(tmp_path, 9), "--yes")
    assert is_complete(again) and f"{BuildImage.title}: done" in again.err


def test_launch_that_failed_is_launched_again(person: Bouchet, cluster: QuickCluster, tmp_path: Path) -> None:
    reached = f"{STEPS.index(LaunchModel) + 1}/{len(STEPS)} {LaunchModel.title}"

    def fail() -> None:
        end(person.store, person.store.live()[0].id, reason="out of memory")

    steps = {reached: cluster.pause, LONG[LaunchModel]: fail}
    done = person.reacting(steps, "setup", "--yes", *answers(tmp_path))
    assert done.status == 1 and "out of memory" in done.err
    cluster.go_on()
    assert is_complete(person("setup", "--yes"))
