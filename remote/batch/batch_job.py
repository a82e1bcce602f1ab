"""What a download's and an image's job share: progress.json, the file `stop`, signals. Python 3.6, standard library."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any, Callable

from job_files import Refused, forget, write_json
from model_folder import read_json

LOOK_S = 0.5
STOP_S = 10


class Stopped(Exception):
    """The job was told to end."""


def progress_path(job_dir: str) -> str:
    """Where the batch job says how it goes."""
    return os.path.join(job_dir, "progress.json")


def tell(job_dir: str, state: str, kind: str = "", sentence: str = "", **more: Any) -> None:
    """Replaces state and words of progress.json; the counts that are not named stay."""
    known = read_json(progress_path(job_dir)) or {"version": 1}
    spec = read_json(os.path.join(job_dir, "spec.json")) or {}  # type: Dict[str, Any]
    known.update(job_name=spec.get("job_name"), state=state, kind=kind, sentence=sentence, rate=0, step="")
    known.update(more)
    known.update(at=round(time.time(), 1))
    write_json(progress_path(job_dir), known)


def perform(job_dir: str, word: str, first: str, kept: str, work: Callable[[str], None], secret: str = "") -> None:
    """Does `work(scratch folder)`, once at a time; progress.json says how it ended.

    kept: what is told of a stop. secret: a file of JOB_DIR that does not outlive the work.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGUSR1, _stop)
    with open(os.path.join(job_dir, "run.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch = tempfile.mkdtemp(prefix="bouchet-%s-" % word)
        try:
            tell(job_dir, "running", step=first)
            work(scratch)
        except Stopped as exc:
            tell(job_dir, "stopped", "stopped", "it was told to stop; " + kept)
            raise Refused("told to stop") from exc
        except (Refused, OSError) as exc:
            if (read_json(progress_path(job_dir)) or {}).get("state") == "running":
                tell(job_dir, "failed", "refused", str(exc))
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if secret:
                forget(os.path.join(job_dir, secret))


def wait_for(child: Any, job_dir: str, group: bool = False) -> int:
    """The program's exit status. Raises Stopped when the job is told to end; then the program has been ended.

    group: it leads a process group, all of which is ended.
    """
    try:
        while not os.path.exists(os.path.join(job_dir, "stop")):
            try:
                return int(child.wait(LOOK_S))
            except subprocess.TimeoutExpired:
                continue
        raise Stopped()
    finally:
        if child.poll() is None:
            _end(child, signal.SIGTERM, group)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                _end(child, signal.SIGKILL, group)
                child.wait()


def detach(program: str, job_dir: str, scripts: str, log: str) -> None:
    """Starts the script beside the login session, unless it runs already; prints what came of it."""
    with open(os.path.join(job_dir, "run.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("it runs already")
            return
    words = ["bash", os.path.join(scripts, "batch.sbatch"), program, job_dir, scripts]
    with open(log, "ab") as output:
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    print("started")


def _end(child: Any, number: int, group: bool) -> None:
    try:
        if group:
            os.killpg(child.pid, number)
        else:
            os.kill(child.pid, number)
    except ProcessLookupError:
        pass


def _stop(*_: Any) -> None:
    raise Stopped()
