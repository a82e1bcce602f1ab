"""One download on a node: `python3 download.py COMMAND JOB_DIR ...`. Standard library and Python 3.6 only.

    run JOB_DIR LUGGAGE            reads spec.json, then fetches inside the image (hub_fetch.py); leaves progress.json
    detach JOB_DIR LUGGAGE LOG     the same in the background, where no Slurm job is wanted; prints what came of it

A file `stop` in JOB_DIR ends it. What has come is kept in every case.
"""

import json
import os
import re
import subprocess
import sys
from typing import Dict, List, Optional

import batch_job
from batch_job import progress_path
from job_files import Refused, Spec, checked_image, main, read_note, read_spec
from model_folder import whole_folder

QUOTA_TIMEOUT_S = 60
# into the container, where a site's nodes reach the outside through a proxy
PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def run(job_dir: str, scripts: str) -> None:
    """Ends when the download has; progress.json says how."""
    batch_job.perform(
        *(job_dir, "download", "checking the image", "what has come is kept"),
        work=lambda scratch: _fetch(job_dir, scripts, scratch),
        secret="token",
    )


def _fetch(job_dir: str, scripts: str, scratch: str) -> None:
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
    words = argv_of(spec, job_dir, scripts, scratch)
    child = subprocess.Popen(words, env=environment_of(scratch), stdin=subprocess.PIPE)
    _hand_over(child, json.dumps(request).encode())
    status = batch_job.wait_for(child, job_dir)
    if status:
        # said already, unless it was killed
        sentence = "the program that fetches ended with status %d; `bouchet download %s` goes on where it stopped"
        raise Refused(sentence % (status, spec["model"]))


def _hand_over(child: "subprocess.Popen[bytes]", request: bytes) -> None:
    """The request on standard input, never on a command line: argv is for everybody to see."""
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:
        pass


def argv_of(spec: Spec, job_dir: str, scripts: str, scratch: str) -> List[str]:
    """The container's command line. Folders have the same names inside as outside."""
    words = [spec["apptainer"], "exec", "--cleanenv", "--no-home", "--no-mount", "cwd", "--pwd", "/tmp"]
    for source in (scratch + ":/tmp", scripts + ":" + scripts + ":ro", job_dir, spec["models_dir"]):
        words += ["--bind", source if ":" in source else "%s:%s" % (source, source)]
    return [*words, spec["image"], "python3", os.path.join(scripts, "hub_fetch.py")]


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


def detach(job_dir: str, scripts: str, log: str) -> None:
    """Starts `run` beside the login session, unless it runs already."""
    batch_job.detach("download.py", job_dir, scripts, log)


COMMANDS = {"run": run, "detach": detach}


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
