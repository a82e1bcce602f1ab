"""One download on a node: `python3 download.py COMMAND JOB_DIR ...`. Standard library and Python 3.6 only.

    run JOB_DIR LUGGAGE            reads spec.json, then fetches inside the image (hub_fetch.py); leaves progress.json
    detach JOB_DIR LUGGAGE LOG     the same in the background, where no Slurm job is wanted; prints what came of it

A file `stop` in JOB_DIR ends it. What has come is kept in every case.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional

from jobfile import Refused, Spec, checked_image, main, read_spec, write_json
from model_folder import read_json, read_note, whole_folder

LOOK_S = 0.5
STOP_S = 10
QUOTA_TIMEOUT_S = 60
# into the container, where a site's nodes reach the outside through a proxy
PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Stopped(Exception):
    """The job was told to end."""


def run(job_dir: str, luggage: str) -> None:
    """Ends when the download has; progress.json says how."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGUSR1, _stop)
    with open(os.path.join(job_dir, "run.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch = tempfile.mkdtemp(prefix="bouchet-download-")
        try:
            _tell(job_dir, "running", step="checking the image")
            _fetch(job_dir, luggage, scratch)
        except Stopped as exc:
            _tell(job_dir, "stopped", "stopped", "it was told to stop; what has come is kept")
            raise Refused("told to stop") from exc
        except (Refused, OSError) as exc:
            if (read_json(progress_path(job_dir)) or {}).get("state") == "running":
                _tell(job_dir, "failed", "refused", str(exc))
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            _forget(os.path.join(job_dir, "token"))


def progress_path(job_dir: str) -> str:
    """Where the download says how it goes."""
    return os.path.join(job_dir, "progress.json")


def _fetch(job_dir: str, luggage: str, scratch: str) -> None:
    spec = read_spec(job_dir)
    checked_image(spec)
    request = {
        "job_name": spec["job_name"],
        "model": spec["model"],
        "revision": spec["revision"],
        "endpoint": spec["endpoint"],
        "token": token_of(job_dir),
        "models_dir": spec["models_dir"],
        "progress": progress_path(job_dir),
        "quota_left": quota_left(spec.get("quota_line") or ""),
    }
    os.makedirs(os.path.dirname(whole_folder(spec["models_dir"], spec["model"])), exist_ok=True)
    words = argv_of(spec, job_dir, luggage, scratch)
    child = subprocess.Popen(words, env=environment_of(scratch), stdin=subprocess.PIPE)
    status = _wait(child, json.dumps(request).encode(), os.path.join(job_dir, "stop"))
    if status:
        # said already, unless it was killed
        sentence = "the program that fetches ended with status %d; `bouchet download %s` goes on where it stopped"
        raise Refused(sentence % (status, spec["model"]))


def _wait(child: Any, request: bytes, stop: str) -> int:
    """The container's exit status. Raises Stopped when the job is told to end."""
    try:
        try:
            # never on a command line: argv is for everybody to see
            child.stdin.write(request)
            child.stdin.close()
        except BrokenPipeError:
            pass
        while not os.path.exists(stop):
            try:
                return int(child.wait(LOOK_S))
            except subprocess.TimeoutExpired:
                continue
        raise Stopped()
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def argv_of(spec: Spec, job_dir: str, luggage: str, scratch: str) -> List[str]:
    """The container's command line. Folders have the same names inside as outside."""
    words = [spec["apptainer"], "exec", "--cleanenv", "--no-home", "--no-mount", "cwd", "--pwd", "/tmp"]
    for source in (scratch + ":/tmp", luggage + ":" + luggage + ":ro", job_dir, spec["models_dir"]):
        words += ["--bind", source if ":" in source else "%s:%s" % (source, source)]
    return [*words, spec["image"], "python3", os.path.join(luggage, "hub_fetch.py")]


def environment_of(scratch: str) -> Dict[str, str]:
    """Of Apptainer itself; what begins with APPTAINERENV_ reaches the program inside."""
    outer = {name: value for name, value in os.environ.items() if not re.search("_BIND(PATH)?$", name)}
    inner = {"HF_HOME": "/tmp/hf", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    names = [name for name in os.environ if name.lower() in PROXY_NAMES or name == "BOUCHET_DOWNLOAD_PAUSE_S"]
    inner.update({name: os.environ[name] for name in names})
    outer.update({"APPTAINERENV_" + name: value for name, value in inner.items()})
    return outer


def token_of(job_dir: str) -> Optional[str]:
    """The hub's token: what was sent along, else what the user keeps on the cluster, where huggingface_hub keeps it."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    places = (os.path.join(job_dir, "token"), os.environ.get("HF_TOKEN_PATH"), os.path.join(home, "token"))
    found = [read_note(place) for place in places if place]
    return next((token for token in found if token), None)


def quota_left(line: str) -> Optional[int]:
    """Bytes that the site's quota line says are left; None when it says nothing."""
    if not line:
        return None
    try:
        done = subprocess.run(
            ["bash", "-c", line], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=QUOTA_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    numbers = re.findall(r"^\s*(\d+)\s*$", done.stdout.decode("utf-8", "replace"), re.M)
    return int(numbers[-1]) if numbers else None


def _tell(job_dir: str, state: str, kind: str = "", sentence: str = "", step: str = "") -> None:
    """Replaces state and words of progress.json; the counts stay."""
    known = read_json(progress_path(job_dir)) or {"version": 1}
    spec = read_json(os.path.join(job_dir, "spec.json")) or {}
    known.update(job_name=spec.get("job_name"), state=state, kind=kind, sentence=sentence, step=step, rate=0)
    known.update(at=round(time.time(), 1))
    write_json(progress_path(job_dir), known)


def _forget(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass


def _stop(*_: Any) -> None:
    raise Stopped()


def detach(job_dir: str, luggage: str, log: str) -> None:
    """Starts `run` beside the login session, unless it runs already."""
    with open(os.path.join(job_dir, "run.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("it runs already")
            return
    words = ["bash", os.path.join(luggage, "download.sbatch"), job_dir, luggage]
    with open(log, "ab") as output:
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    print("started")


COMMANDS = {"run": run, "detach": detach}


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
