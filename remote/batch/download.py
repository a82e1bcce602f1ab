"""One model download on a node: `python3 download.py COMMAND JOB_DIR ...`. Python 3.6, standard library.

    run JOB_DIR SCRIPTS_DIR            read spec.json, download inside the image (hub_fetch.py), report in progress.json
    detach JOB_DIR SCRIPTS_DIR LOG     the same in the background, without a Slurm job; prints whether it was started

A file `stop` in JOB_DIR cancels it. Partial downloads are kept.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import Dict, List, Optional

import batch_job
from image_file import check_image
from job_files import Commands, JobRefusedError, Spec, read_spec, read_text, run_command
from model_folder import model_path
from quota import bytes_left, run_quota_command

QUOTA_TIMEOUT_S = 60
# passed into the container, where a site's nodes reach the internet through a proxy
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
JOB = batch_job.BatchProgram("download", "checking the image", "partial downloads are kept", secret="token")


def run(job_dir: str, scripts: str) -> None:
    """Download the model; progress.json gets the result."""
    JOB.run(job_dir, lambda scratch: _download(job_dir, scripts, scratch))


def detach(job_dir: str, scripts: str, log: str) -> None:
    """Start `run` in the background of the login session, unless it runs already."""
    batch_job.detach("download.py", job_dir, scripts, log)


def _download(job_dir: str, scripts: str, scratch: str) -> None:
    spec = read_spec(job_dir)
    check_image(spec)
    quota = run_quota_command(spec.get("quota_command") or [], QUOTA_TIMEOUT_S)
    request = {
        "job_name": spec["job_name"],
        "model": spec["model"],
        "revision": spec["revision"],
        "endpoint": spec["endpoint"],
        "token": find_token(job_dir),
        "models_dir": spec["models_dir"],
        "progress": batch_job.progress_path(job_dir),
        "quota_left": bytes_left(quota, spec["models_dir"]),
        "for_group": spec.get("for_group", False),
    }
    owner = os.path.dirname(model_path(spec["models_dir"], spec["model"]))
    os.makedirs(owner, exist_ok=True)
    if spec.get("for_group"):
        with contextlib.suppress(OSError):
            os.chmod(owner, 0o750)
    argv = container_argv(spec, job_dir, scripts, scratch)
    child = subprocess.Popen(argv, env=container_environment(spec["apptainer"]), stdin=subprocess.PIPE)
    _send(child, json.dumps(request).encode())
    status = batch_job.wait_for_exit(child, job_dir)
    if status:
        with contextlib.suppress(OSError):
            os.rmdir(owner)  # an empty folder, of a model that the hub does not have
        # hub_fetch.py has reported the reason already, unless it was killed
        message = "the download program exited with status %d; run `%s` again to resume"
        raise JobRefusedError(message % (status, batch_job.download_command(spec)))


def _send(child: "subprocess.Popen[bytes]", request: bytes) -> None:
    """Write the request to standard input: it has the token, and every user of the node can read argv."""
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:
        pass


def container_argv(spec: Spec, job_dir: str, scripts: str, scratch: str) -> List[str]:
    """Return the container's command. Folders have the same paths in the container and on the node."""
    argv = [spec["apptainer"], "exec", "--cleanenv", "--no-home", "--no-mount", "cwd", "--pwd", "/tmp"]
    for bind in (scratch + ":/tmp", scripts + ":" + scripts + ":ro", job_dir, spec["models_dir"]):
        argv += ["--bind", bind if ":" in bind else "%s:%s" % (bind, bind)]
    return [*argv, spec["image"], "python3", os.path.join(scripts, "hub_fetch.py")]


def container_environment(program: str) -> Dict[str, str]:
    """Return Apptainer's own environment; its variables APPTAINERENV_NAME become NAME in the container."""
    outer = {name: value for name, value in os.environ.items() if not re.search("_BIND(PATH)?$", name)}
    inner = {"HF_HOME": "/tmp/hf", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    names = [name for name in os.environ if name.lower() in PROXY_VARIABLES or name == "BOUCHET_DOWNLOAD_PAUSE_S"]
    inner.update({name: os.environ[name] for name in names})
    prefix = "SINGULARITYENV_" if os.path.basename(program).startswith("singularity") else "APPTAINERENV_"
    outer.update({prefix + name: value for name, value in inner.items()})
    return outer


def find_token(job_dir: str) -> Optional[str]:
    """Return the hub token: the one in the job's folder, else the user's own on the cluster (as huggingface_hub)."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    paths = (os.path.join(job_dir, "token"), os.environ.get("HF_TOKEN_PATH"), os.path.join(home, "token"))
    tokens = [read_text(path) for path in paths if path]
    return next((token for token in tokens if token), None)


COMMANDS: Commands = {"run": run, "detach": detach}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv, COMMANDS))
