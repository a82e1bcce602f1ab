"""What all batch jobs (downloads, image builds) share: progress.json, the stop file, signals. Python 3.6."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional

from job_files import JobRefusedError, read_json, remove_if_exists, write_json

POLL_S = 0.5
# between SIGTERM and SIGKILL
STOP_TIMEOUT_S = 10
SCRIPT = "batch.sbatch"
MAX_STEPS = 100

# name and time (seconds since 1970) of each step so far
Steps = List[Dict[str, Any]]


class JobStoppedError(Exception):
    """The job was cancelled."""


def progress_path(job_dir: str) -> str:
    """Return the file in which the batch job reports."""
    return os.path.join(job_dir, "progress.json")


def report(job_dir: str, state: str, kind: str = "", sentence: str = "", **more: Any) -> None:
    """Replace the state and message of progress.json; counts that are not named are kept.

    A new step is added to the list of steps, so that whoever reads the file later knows of those that were short.
    """
    progress = read_json(progress_path(job_dir)) or {"version": 1}
    spec = read_json(os.path.join(job_dir, "spec.json")) or {}
    progress.update(job_name=spec.get("job_name"), state=state, kind=kind, sentence=sentence, rate=0, step="")
    progress.update(more)
    now = time.time()
    progress.update(at=round(now, 1), steps=with_step(progress.get("steps", []), progress["step"], now))
    write_json(progress_path(job_dir), progress)


def with_step(steps: Steps, name: str, now: float) -> Steps:
    """Return the list of steps, in their order, with this one unless it is the last already or has no name."""
    if not name or (steps and steps[-1]["name"] == name):
        return steps
    return [*steps, {"name": name, "at": round(now, 3)}][-MAX_STEPS:]


def download_command(request: Dict[str, Any]) -> str:
    """Return the command that starts the same download again. request: of the job, with model and revision."""
    revision = request.get("revision") or "main"
    return "bouchet download %s%s" % (request["model"], "" if revision == "main" else " --revision " + revision)


class BatchProgram:
    """A batch job of one kind, as progress.json describes it.

    kind: in the name of its scratch folder. first_step: until it reports another. after_stop: what a stop leaves, added
    to the message. secret: a file of the job's folder that is removed at the end.
    """

    def __init__(self, kind: str, first_step: str, after_stop: str, secret: Optional[str] = None) -> None:
        self.kind, self.first_step, self.after_stop, self.secret = kind, first_step, after_stop, secret

    def run(self, job_dir: str, work: Callable[[str], None]) -> None:
        """Run `work(scratch folder)`, in one process at a time; progress.json gets the result."""
        signal.signal(signal.SIGTERM, _raise_stopped)
        signal.signal(signal.SIGUSR1, _raise_stopped)
        with open(os.path.join(job_dir, "run.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratch = tempfile.mkdtemp(prefix="bouchet-%s-" % self.kind)
            try:
                # without those of an earlier run
                report(job_dir, "running", step=self.first_step, steps=[])
                work(scratch)
            except JobStoppedError as exc:
                report(job_dir, "stopped", "stopped", "it was cancelled; " + self.after_stop)
                raise JobRefusedError("cancelled") from exc
            except (JobRefusedError, OSError) as exc:
                if (read_json(progress_path(job_dir)) or {}).get("state") == "running":
                    report(job_dir, "failed", "refused", str(exc))
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                if self.secret:
                    remove_if_exists(os.path.join(job_dir, self.secret))


def check_stop(job_dir: str) -> None:
    """Raise JobStoppedError when the job's folder has a stop file."""
    if os.path.exists(os.path.join(job_dir, "stop")):
        raise JobStoppedError()


def wait_for_exit(child: "subprocess.Popen[bytes]", job_dir: str, group: bool = False) -> int:
    """Return the program's exit status. Raises JobStoppedError when the job is cancelled, after ending the program.

    group: it leads a process group, all of which is ended.
    """
    try:
        while True:
            check_stop(job_dir)
            try:
                return int(child.wait(POLL_S))
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            _signal(child.pid, signal.SIGTERM, group)
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _signal(child.pid, signal.SIGKILL, group)
                child.wait()


def detach(program: str, job_dir: str, scripts: str, log: str) -> None:
    """Start the program in the background of the login session, unless it runs already; print which."""
    with open(os.path.join(job_dir, "run.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("already running")
            return
    argv = ["bash", os.path.join(scripts, SCRIPT), program, job_dir, scripts]
    with open(log, "ab") as output:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    print("started")


def _signal(pid: int, number: int, group: bool) -> None:
    try:
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def _raise_stopped(*_: object) -> None:
    raise JobStoppedError()
