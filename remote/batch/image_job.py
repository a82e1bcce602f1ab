"""An image build or verification on a node: `python3 image_job.py COMMAND JOB_DIR ...`. Python 3.6, standard library.

    run JOB_DIR SCRIPTS_DIR            read spec.json, build or verify, report in progress.json
    detach JOB_DIR SCRIPTS_DIR LOG     the same in the background, without a Slurm job; prints whether it was started

A file `stop` in JOB_DIR cancels it. An existing image is replaced only by a complete one.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from typing import Dict, List, Optional

import batch_job
from build_output import BuildProgress, explain_failure, update_progress
from image_file import note_hash, pinned_hash, read_manifest, sha256_of
from job_files import Commands, JobRefusedError, Spec, read_spec, run_command

GIB = 1 << 30
TAIL_LINES = 60
REPORT_INTERVAL_S = 1.0
JOB = batch_job.BatchProgram("image", "starting", "no partial image is left")


def run(job_dir: str, scripts: str) -> None:
    """Build or verify the image; progress.json gets the result."""
    spec = read_spec(job_dir)
    action = {"build": build, "verify": verify}[spec["action"]]
    JOB.run(job_dir, lambda _scratch: action(job_dir, spec))


def detach(job_dir: str, scripts: str, log: str) -> None:
    """Start `run` in the background of the login session, unless it runs already."""
    batch_job.detach("image_job.py", job_dir, scripts, log)


# build


def build(job_dir: str, spec: Spec) -> None:
    """Run build.sh of the pin's files, which are in the job's folder."""
    build_dir = check_space(spec)
    choose_source(spec)
    environment = dict(os.environ, TMPDIR=build_dir, APPTAINER=spec["apptainer"], PYTHONUNBUFFERED="1")
    environment.update(BOUCHET_IN_USE=" ".join(spec["in_use"]), BOUCHET_REBUILD="yes" if spec["rebuild"] else "")
    # this build's own: another one of the same pin may be at work in the same folder
    work = os.path.join(spec["images_dir"], ".%s.%s" % (spec["pin"], secrets.token_hex(3)))
    environment["BOUCHET_WORK"] = work
    if spec.get("signing_key"):
        environment["BOUCHET_SIGN_KEY"] = signing_key_index(spec)
    argv = ["bash", os.path.join(job_dir, "build.sh"), job_dir, spec["images_dir"]]
    argv += [spec["source"]] if spec["source"] else []
    began = time.time()
    child = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reader = OutputReader(job_dir, child)
    try:
        status = batch_job.wait_for_exit(child, job_dir, group=True)
    finally:
        reader.join()
        if child.returncode:
            # what build.sh could not remove itself, because it was killed
            shutil.rmtree(work, ignore_errors=True)
    if status:
        kind, sentence = explain_failure(reader.lines, str(reader.progress.get("stage")), spec["pin"], spec["source"])
        batch_job.report(job_dir, "failed", kind, sentence)
        raise JobRefusedError(sentence)
    _report_built(job_dir, spec, reader.lines, int(time.time() - began))


class OutputReader(threading.Thread):
    """Copies a build's output to the log, keeps its last lines, and reports its progress."""

    def __init__(self, job_dir: str, child: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        self.lines: List[str] = []
        self.progress: BuildProgress = {}
        self._job_dir, self._child, self._reported_at = job_dir, child, 0.0
        self.start()

    def run(self) -> None:
        """Read until the build and all its children have closed their output."""
        assert self._child.stdout is not None
        for raw in self._child.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            print(line, flush=True)
            self.lines = [*self.lines, line][-TAIL_LINES:]
            self._report(update_progress(line, self.progress))

    def _report(self, new: BuildProgress) -> None:
        is_stage = new.get("stage") != self.progress.get("stage")
        if new != self.progress and (is_stage or time.time() - self._reported_at > REPORT_INTERVAL_S):
            self._reported_at = time.time()
            batch_job.report(self._job_dir, "running", **new)  # type: ignore[arg-type]
        self.progress = new


def check_space(spec: Spec) -> str:
    """Return the folder to build in. JobRefusedError when it, or the images folder, is too small."""
    build_dir = os.path.expanduser(spec["build_dir"] or os.environ.get("TMPDIR") or "/tmp")
    node = os.uname().nodename.split(".")[0]
    os.makedirs(spec["images_dir"], exist_ok=True)
    if not os.path.isdir(build_dir):
        message = "%s has no folder %s to build in; set another build_dir in the site file"
        raise JobRefusedError(message % (node, build_dir))
    for folder, needed, when, advice in (
        (build_dir, spec["build_gib"], "while it is built", "set a larger folder as build_dir in the site file"),
        (spec["images_dir"], spec["image_gib"], "when it is finished", "free some space there"),
    ):
        known = os.statvfs(folder)
        free = known.f_bavail * known.f_frsize
        if free < needed * GIB:
            message = "the image %s needs about %d GiB %s, and %s on %s has %.1f GiB free; %s"
            raise JobRefusedError(message % (spec["pin"], needed, when, folder, node, free / GIB, advice))
    return build_dir


def choose_source(spec: Spec) -> None:
    """Set the staged folder in spec["source"]: the requested one, else the site's if it exists.

    JobRefusedError when a file is missing in it.
    """
    source = spec["source"]
    if not source and os.path.isdir(os.path.expanduser(spec.get("staged") or "")):
        source = spec["staged"]
    if not source:
        return
    spec["source"] = source = os.path.expanduser(source)
    wanted = ("image.tar",) if spec["oci"] else ("base.tar", "wheels")
    missing = [name for name in wanted if not os.path.exists(os.path.join(source, name))]
    if missing:
        message = "missing in %s: %s; docs/images.md explains how to stage an image"
        raise JobRefusedError(message % (source, ", ".join(missing)))


def _report_built(job_dir: str, spec: Spec, lines: List[str], seconds: int) -> None:
    digest = hash_beside(spec)
    current = any(line.startswith("bouchet: current") for line in lines)
    sentence = "already built from the same recipe" if current else "built in %d s" % seconds
    if spec.get("image_sha256") and spec["image_sha256"].lower() != digest:
        sentence += (
            "; the site file has another sha256 (%s...), so jobs refuse the image until you change it there"
            % (spec["image_sha256"][:12])
        )
    size = os.path.getsize(spec["image"])
    batch_job.report(job_dir, "done", sentence=sentence, sha256=digest, bytes=size, seconds=seconds, current=current)


# signatures


def signing_key_index(spec: Spec) -> str:
    """Return the number of the site's key among the secret keys of Apptainer's keyring."""
    keys = _run([spec["apptainer"], "key", "list", "--secret"])
    for number, block in re.findall(r"^(\d+)\)(.*?)(?=^\d+\)|\Z)", keys, re.M | re.S):
        if spec["signing_key"].upper() in re.sub(r"[^0-9A-F]", "", block.upper()):
            return str(number)
    message = "Apptainer's keyring has no secret key %s; see `apptainer key list --secret`"
    raise JobRefusedError(message % spec["signing_key"])


def valid_signers(spec: Spec) -> List[str]:
    """Return the fingerprints of all keys with a valid signature on the image."""
    try:
        found = json.loads(_run([spec["apptainer"], "verify", "--local", "--json", spec["image"]]))["SignerKeys"] or []
    except (ValueError, KeyError):
        return []
    valid = [entry["Signer"] for entry in found if entry["Signer"].get("KeyCheck") and entry["Signer"].get("DataCheck")]
    return [str(signer["Fingerprint"]).upper() for signer in valid]


def _run(argv: List[str]) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout.decode("utf-8", "replace")


# verify


def verify(job_dir: str, spec: Spec) -> None:
    """Hash the image again, and compare with all that is recorded of it."""
    try:
        known = os.stat(spec["image"])
    except OSError as exc:
        raise JobRefusedError("the image %s cannot be read: %s" % (spec["image"], exc.strerror)) from exc
    found = _hash_with_progress(job_dir, spec["image"], known.st_size)
    check_records(spec, found)
    signed = ""
    if spec.get("signing_key"):
        if spec["signing_key"].upper() not in valid_signers(spec):
            message = "the image %s is not signed with the site's key %s"
            raise JobRefusedError(message % (spec["image"], spec["signing_key"]))
        signed = ", signed with the site's key"
    note_hash(spec["root"], known, found)
    sentence = "its sha256 matches the record: %s...%s" % (found[:12], signed)
    batch_job.report(job_dir, "done", sentence=sentence, sha256=found, bytes=known.st_size)


def _hash_with_progress(job_dir: str, path: str, size: int) -> str:
    reported_at = 0.0

    def on_read(count: int) -> None:
        nonlocal reported_at
        batch_job.check_stop(job_dir)
        if time.time() - reported_at > REPORT_INTERVAL_S:
            reported_at = time.time()
            done, of = count >> 20, size >> 20
            batch_job.report(job_dir, "running", step="hashing the image", stage="hash", done=done, of=of)

    return sha256_of(path, on_read)


def check_records(spec: Spec, found: str) -> None:
    """Raise JobRefusedError where a record has another hash."""
    recorded: Dict[str, Optional[str]] = {
        "its .sha256 file": hash_beside(spec),
        "its manifest": read_manifest(spec["image"]).get("sif_sha256"),
        "the site file": (spec.get("image_sha256") or "").lower() or None,
    }
    for where, digest in recorded.items():
        if digest and digest != found:
            message = "the image %s has changed: its sha256 is %s..., %s has %s...; build it again"
            raise JobRefusedError(message % (spec["image"], found[:12], where, digest[:12]))


def hash_beside(spec: Spec) -> str:
    """Return the hash in the image's .sha256 file, whatever the site file has. JobRefusedError without one."""
    return pinned_hash(dict(spec, image_sha256=None))


COMMANDS: Commands = {"run": run, "detach": detach}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv, COMMANDS))
