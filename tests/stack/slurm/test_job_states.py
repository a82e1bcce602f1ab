"""Every state that the demo cluster's real Slurm can produce, through to the sentence on the record.

Most deployments here never get a node: what they wait for, or why Slurm ends them, costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bouchet_core.deployments import Placement
from bouchet_worker.slurm.commands import sbatch_test_only_argv as probe_argv
from bouchet_worker.slurm.error_messages import describe_refusal

from tests.stack.harness import Stack
from tests.waiting import wait_for

NEWS_S = 90
# ends before the maintenance window that other tests here wait for
BRIEF = ("--time", "01:00:00")
MODEL = "demo/scripted"


@pytest.fixture
def launch(stack: Stack) -> Iterator[Callable[..., str]]:
    """Launch the small model under a name; it is cancelled when the test ends."""
    made: list[str] = []

    def launch(name: str, *options: str) -> str:
        made.append(launched(stack, name, *options))
        return made[-1]

    yield launch
    for identity in made:
        cancel(stack, identity)


def launched(stack: Stack, name: str, *options: str) -> str:
    """Launch, and return the new deployment's id."""
    done = stack.bouchet("launch", MODEL, "--name", name, "--no-wait", "--json", *options)
    assert done.status == 0, done.output
    return str(json.loads(done.stdout)["id"])


def cancel(stack: Stack, identity: str) -> None:
    """Cancel a deployment in any phase."""
    stack.bouchet("cancel", identity)
    stack.wait_for_phase(identity, "ended", timeout_s=120)


def as_root(stack: Stack, *argv: str) -> str:
    done = stack.on("demo-ctl", argv)
    assert done.status == 0, done.output
    return done.stdout


def slurm_id(stack: Stack, identity: str) -> str:
    """Wait for its job's id."""

    def known() -> Any:
        jobs = stack.deployment(identity)["jobs"]
        return jobs and jobs[-1]["slurm_id"]

    return str(wait_for(known, NEWS_S, lambda: str(stack.deployment(identity))))


def says(stack: Stack, identity: str, phase: str, words: str, timeout_s: float = NEWS_S) -> dict[str, Any]:
    """Wait for a phase and a reason; return the record."""

    def there() -> dict[str, Any] | None:
        record = stack.deployment(identity)
        return record if record["phase"] == phase and words in record["reason"] else None

    return dict(wait_for(there, timeout_s, lambda: json.dumps(stack.deployment(identity), indent=1)))


@contextmanager
def other_work(stack: Stack, *options: str, user: str = "researcher") -> Iterator[str]:
    """Submit a sleeping job outside the stack; yield its id."""
    argv = ["sbatch", "--parsable", "--mem=100M", "--output=/dev/null", *options, "--wrap", "sleep 600"]
    done = stack.on("demo-login", ["runuser", "-u", user, "--", *argv])
    assert done.status == 0, done.output
    job = done.stdout.strip()
    try:
        yield job
    finally:
        as_root(stack, "scancel", job)


@contextmanager
def one_node(stack: Stack, spared: str) -> Iterator[None]:
    """Let jobs start on the other node only."""
    as_root(stack, "scontrol", "update", f"nodename={spared}", "state=drain", "reason=tests")
    try:
        yield
    finally:
        as_root(stack, "scontrol", "update", f"nodename={spared}", "state=resume")


def node_of_the_demo_model(stack: Stack) -> str:
    return str(stack.deployment("bouchet-smollm2")["jobs"][-1]["node"])


def test_status_shows_startup_times(stack: Stack, launch: Callable[..., str]) -> None:
    identity = launch("timed", "--partition", "scavenge_gpu")
    times = stack.wait_for_phase(identity, "ready")["jobs"][-1]["times"]
    assert [step for step in times if step != "smoke"] == ["queue", "image", "boot", "load", "compile", "ready"]
    assert times["ready"] == pytest.approx(sum(times[step] for step in list(times)[:-1]), abs=0.2)
    assert min(times["boot"], times["load"], times["compile"]) > 0
    shown = stack.bouchet("status", "timed").stdout
    assert "from launch to ready" in shown and "loading weights" in shown
    cancel(stack, identity)


def test_partition_auto_passes_over_the_one_at_its_own_limit(stack: Stack) -> None:
    """The demo's model runs in gpu_devel, where one job of a user may: Slurm's estimate would not count that."""
    shown = stack.bouchet("launch", MODEL, "--name", "asked", "--dry-run", "--json", "--partition", "auto")
    placement = json.loads(shown.stdout)["placement"]
    assert placement["partition"] == "gpu_h200"
    assert placement["why"].count("gpu_devel has a limit of 1 running job per user") == 1, placement["why"]


def test_dry_run_matches_launch(stack: Stack, launch: Callable[..., str]) -> None:
    options = ("--partition", "gpu_devel", "--time", "01:30:00", "--max-len", "4096", "--idle-timeout", "7")
    before = stack.slurm("squeue", "-h", "-o", "%i"), stack.deployments(live=False)
    shown = stack.bouchet("launch", MODEL, "--name", "looked-at", "--dry-run", "--json", *options)
    assert shown.status == 0, shown.output
    assert (stack.slurm("squeue", "-h", "-o", "%i"), stack.deployments(live=False)) == before
    preview = json.loads(shown.stdout)
    assert "key" not in preview["files"]
    assert stack.on("demo-login", ["test", "-e", preview["folder"]]).status == 1, "a preview leaves nothing behind"

    identity = launch("looked-at", *options)
    job = slurm_id(stack, identity)

    def as_launched(text: str) -> str:
        return text.replace("bouchet-preview-1", f"bouchet-{identity}-1").replace('"preview"', f'"{identity}"')

    staged = {name: text_of(stack, f"{as_launched(preview['folder'])}/{name}") for name in preview["files"]}
    assert staged == {name: as_launched(text) for name, text in preview["files"].items()}
    command = [as_launched(word) for word in preview["command"]]
    assert text_of(stack, command[-3]) == preview["script"]
    fields = dict(re.findall(r"(\S+?)=(\S+)", stack.slurm("scontrol", "-o", "show", "job", job)))
    assert (fields["JobName"], fields["Partition"]) == (command_option(command, "job-name"), "gpu_devel")
    assert (fields["TimeLimit"], fields["Command"]) == (command_option(command, "time"), command[-3])
    assert fields["StdOut"] == command_option(command, "output").replace("%j", job)
    # the demo model runs there, and one job of a user may
    says(stack, identity, "queued", "QOSMaxJobsPerUserLimit")
    assert "cancel one of your jobs in gpu_devel" in stack.deployment(identity)["reason"]


def text_of(stack: Stack, path: str) -> str:
    """Read a file on the cluster. Docker sometimes loses the output of short commands, hence the end marker."""

    def read() -> str:
        return stack.on("demo-login", ["sh", "-c", 'cat "$1" && printf .', "sh", path]).stdout

    return str(wait_for(read, NEWS_S)).removesuffix(".")


def command_option(command: list[str], name: str) -> str:
    return next(word.partition("=")[2] for word in command if word.startswith(f"--{name}="))


def test_submit_limit_repeats_slurm_and_names_next_step(stack: Stack, launch: Callable[..., str]) -> None:
    # two jobs of a user may be there
    if len(stack.slurm("squeue", "--me", "-h", "-p", "gpu_devel", "-o", "%i").split()) < 2:
        slurm_id(stack, launch("second", "--partition", "gpu_devel"))
    identity = launch("third", "--partition", "gpu_devel")
    record = stack.wait_for_phase(identity, "ended", timeout_s=NEWS_S)
    assert record["ending"] == "failed"
    assert "job submit limit" in record["reason"] and "cancel one" in record["reason"], record["reason"]


def test_gpu_limit_counts_other_jobs_of_user(stack: Stack, launch: Callable[..., str]) -> None:
    with other_work(stack, "-p", "gpu_h200", "--gpus=h200:2") as job:
        wait_for(lambda: "RUNNING" in stack.slurm("squeue", "-h", "-j", job, "-o", "%T"), NEWS_S)
        identity = launch("counted", "--partition", "gpu_h200", "--gpus", "2")
        record = says(stack, identity, "queued", "QOSMaxGRESPerUser")
        assert "limit of GPUs that you may use" in record["reason"]
        assert "your jobs there use 2" in record["jobs"][-1]["placement"]["why"]
        cancel(stack, identity)


@pytest.fixture(scope="module")
def waiting(stack: Stack) -> Iterator[str]:
    """Launch a deployment that waits for the end of a maintenance window."""
    window = [
        "reservationname=maintenance",
        "starttime=now+2hours",
        "duration=60",
        "flags=maint,ignore_jobs",
        "nodes=ALL",
    ]
    as_root(stack, "scontrol", "create", "reservation", *window, "users=root")
    try:
        identity = launched(stack, "waiting", "--partition", "gpu_h200", "--time", "06:00:00")
        slurm_id(stack, identity)
        yield identity
        cancel(stack, identity)
    finally:
        as_root(stack, "scontrol", "delete", "reservationname=maintenance")


def test_pending_maintenance_names_start_after_it(stack: Stack, waiting: str) -> None:
    record = says(stack, waiting, "queued", "maintenance window")
    assert "shorter --time" in record["reason"]


@pytest.mark.parametrize(
    ("change", "back", "words"),
    [
        (["update", "starttime=now+3hours"], ["update", "starttime=now"], "(BeginTime)"),
        (["hold"], ["release"], "held by an administrator"),
        (["update", "dependency=afterany:{demo}"], ["update", "dependency="], "another job to finish"),
    ],
    ids=["begin time", "held", "dependency"],
)
def test_pending_reason_is_explained(
    stack: Stack, waiting: str, change: list[str], back: list[str], words: str
) -> None:
    job = slurm_id(stack, waiting)
    demo = str(stack.deployment("bouchet-smollm2")["jobs"][-1]["slurm_id"])
    as_root(stack, *changed(change, job, demo))
    says(stack, waiting, "queued", words)
    as_root(stack, *changed(back, job, demo))


def changed(words: list[str], job: str, demo: str) -> list[str]:
    verb, *rest = words
    return ["scontrol", verb, *([f"jobid={job}"] if verb == "update" else [job]), *(w.format(demo=demo) for w in rest)]


def test_pending_held_job_names_release_command(stack: Stack, waiting: str) -> None:
    job = slurm_id(stack, waiting)
    stack.slurm("scontrol", "hold", job)
    says(stack, waiting, "queued", "`scontrol release JOB`")
    stack.slurm("scontrol", "release", job)


def test_pending_partition_down_is_explained(stack: Stack, waiting: str) -> None:
    as_root(stack, "scontrol", "update", "partitionname=gpu_h200", "state=down")
    try:
        says(stack, waiting, "queued", "(PartitionDown)")
    finally:
        as_root(stack, "scontrol", "update", "partitionname=gpu_h200", "state=up")


def test_pending_lowered_time_limit_is_explained(stack: Stack, launch: Callable[..., str]) -> None:
    as_root(stack, "scontrol", "update", "partitionname=scavenge_gpu", "maxtime=30")
    try:
        identity = launch("long", "--partition", "scavenge_gpu", *BRIEF)
        assert "shorter --time" in says(stack, identity, "queued", "(PartitionTimeLimit)")["reason"]
        cancel(stack, identity)
    finally:
        as_root(stack, "scontrol", "update", "partitionname=scavenge_gpu", "maxtime=1-00:00:00")


@pytest.mark.parametrize(
    ("service", "user", "who"),
    [
        ("demo-login", "researcher", "cancelled by you"),
        ("demo-ctl", "", "cancelled by root"),
        ("demo-login", "colleague", "cancelled by user colleague (id 2003)"),
    ],
)
def test_cancelled_job_names_user(stack: Stack, launch: Callable[..., str], service: str, user: str, who: str) -> None:
    if user == "colleague":
        as_root(stack, "sacctmgr", "-iQ", "modify", "user", user, "set", "adminlevel=operator")
    with blocked(stack, "gpu_h200"):
        identity = launch("doomed", "--partition", "gpu_h200")
        job = slurm_id(stack, identity)
        done = stack.on(service, ["scancel", job], user=user)
        assert done.status == 0, done.output
        record = stack.wait_for_phase(identity, "ended", timeout_s=NEWS_S)
    assert record["ending"] == "cancelled" and who in record["reason"], record["reason"]


@contextmanager
def blocked(stack: Stack, partition: str) -> Iterator[None]:
    """Take the partition down: jobs are queued and not started."""
    as_root(stack, "scontrol", "update", f"partitionname={partition}", "state=down")
    try:
        yield
    finally:
        as_root(stack, "scontrol", "update", f"partitionname={partition}", "state=up")


def test_missed_deadline_ends_deployment(stack: Stack, launch: Callable[..., str]) -> None:
    with blocked(stack, "gpu_h200"):
        identity = launch("late", "--partition", "gpu_h200")
        as_root(stack, "scontrol", "update", f"jobid={slurm_id(stack, identity)}", "deadline=now+5")
        record = stack.wait_for_phase(identity, "ended", timeout_s=90)
    assert record["ending"] == "timed_out" and "deadline" in record["reason"], record["reason"]
    assert record["jobs"][-1]["slurm_state"] == "DEADLINE"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gpu_type": "a100"}, "another --partition"),
        ({"gpus": 9}, "fewer --gpus"),
        ({"partition": "nope"}, "correct the site file"),
        ({"qos": "nope"}, "--qos"),
        ({"account": "nope"}, "--account"),
        ({"constraint": "nope"}, "--constraint"),
    ],
)
def test_sbatch_refusal_names_next_step(stack: Stack, wrong: dict[str, Any], words: str) -> None:
    place = Placement(partition="gpu_h200", gpus=1, gpu_type="h200", nodes=1, cpus=2, memory_gib=1, walltime_s=3600)
    argv = probe_argv(place.model_copy(update=wrong))
    done = stack.on("demo-login", ["sh", "-c", '"$@" < /usr/bin/ldd', "sh", *argv], user="researcher")
    assert done.status != 0
    assert words in describe_refusal(done.stderr), done.stderr


def test_short_walltime_ends_as_timed_out(stack: Stack, launch: Callable[..., str]) -> None:
    identity = launch("short", "--partition", "scavenge_gpu", "--time", "00:01:00")
    record = stack.wait_for_phase(identity, "ended", timeout_s=240)
    assert record["ending"] == "timed_out", record["reason"]


def test_suspended_requeued_and_preempted_job_keeps_deployment(stack: Stack, launch: Callable[..., str]) -> None:
    spared = node_of_the_demo_model(stack)
    with one_node(stack, spared):
        identity = launch("tossed", "--partition", "scavenge_gpu", *BRIEF)
        assert "stopped without notice" in stack.wait_for_phase(identity, "starting")["jobs"][-1]["placement"]["why"]
        job = slurm_id(stack, identity)
        node = {"node1": "node2", "node2": "node1"}[spared]

        as_root(stack, "scontrol", "suspend", job)
        says(stack, identity, "starting", "SUSPENDED")
        as_root(stack, "scontrol", "resume", job)

        as_root(stack, "scontrol", "requeue", job)
        says(stack, identity, "queued", "Slurm requeued the job")
        # after 40 s: a node refuses a requeued job that is released sooner, by its credential (Slurm's exit code 1:0)
        stack.wait_for_phase(identity, "starting")

        with other_work(stack, "-p", "gpu_h200", "-w", node, "--gpus=h200:2", user="colleague"):
            record = says(stack, identity, "queued", "Slurm requeued the job")
            assert record["jobs"][-1]["node"] is None and record["jobs"][-1]["port"] is None
        stack.wait_for_phase(identity, "starting")

        as_root(stack, "scontrol", "update", "partitionname=scavenge_gpu", "preemptmode=cancel")
        try:
            with other_work(stack, "-p", "gpu_h200", "-w", node, "--gpus=h200:2", user="colleague"):
                record = stack.wait_for_phase(identity, "ended", timeout_s=120)
        finally:
            as_root(stack, "scontrol", "update", "partitionname=scavenge_gpu", "preemptmode=requeue")
    assert record["ending"] == "preempted" and "preempted by" in record["reason"], record["reason"]
    assert len(record["jobs"]) == 1, "a job that Slurm puts back is the same attempt"


@pytest.mark.long
def test_node_failure_requeues_deployment(stack: Stack, launch: Callable[..., str]) -> None:
    spared = node_of_the_demo_model(stack)
    with one_node(stack, spared):
        identity = launch("unlucky", "--partition", "scavenge_gpu", *BRIEF)
        node = stack.wait_for_phase(identity, "starting")["jobs"][-1]["node"]
    assert node != spared
    stack.slurm("scontrol", "update", f"jobid={slurm_id(stack, identity)}", "requeue=0")
    container = stack.container(f"demo-{node}")
    container.kill()
    try:
        record = stack.wait_for_phase(identity, "ended", timeout_s=120)
    finally:
        container.start()
    assert record["ending"] == "failed" and f"node {node} failed" in record["reason"], record["reason"]
    assert record["jobs"][-1]["slurm_state"] == "NODE_FAIL"
    stack.wait_healthy(f"demo-{node}")
