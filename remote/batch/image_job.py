"""An image's job on a node: `python3 image_job.py COMMAND JOB_DIR ...`. Standard library and Python 3.6 only.

    run JOB_DIR LUGGAGE            reads spec.json, then builds or verifies; leaves progress.json
    detach JOB_DIR LUGGAGE LOG     the same in the background, where no Slurm job is wanted; prints what came of it

A file `stop` in JOB_DIR ends it. The image that was there before stays until a new one is whole.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import Any, List

import batch_job
from build_output import Progress, failure_in_words, progress_of
from job_files import READ_BYTES, Refused, Spec, forget, main, read_spec, recorded_hash, write_whole
from model_folder import read_json

GIB = 1 << 30
TAIL_LINES = 60
TELL_EVERY_S = 1.0


def run(job_dir: str, scripts: str) -> None:
    """Ends when the image has been built or verified; progress.json says how."""
    spec = read_spec(job_dir)
    work = {"build": build, "verify": verify}[spec["action"]]
    batch_job.perform(
        *(job_dir, "image", "starting", "nothing half-made is left"), work=lambda scratch: work(job_dir, spec, scratch)
    )


def detach(job_dir: str, scripts: str, log: str) -> None:
    """Starts `run` beside the login session, unless it runs already."""
    batch_job.detach("image_job.py", job_dir, scripts, log)


# build


def build(job_dir: str, spec: Spec, scratch: str) -> None:
    """Runs build.sh of the pin's files, which lie in the job's folder."""
    place = place_for(spec)
    check_source(spec)
    environ = dict(os.environ, TMPDIR=place, APPTAINER=spec["apptainer"], PYTHONUNBUFFERED="1")
    environ.update(BOUCHET_IN_USE=" ".join(spec["in_use"]), BOUCHET_REBUILD="yes" if spec["rebuild"] else "")
    if spec.get("signing_key"):
        environ["BOUCHET_SIGN_KEY"] = key_index(spec)
    words = ["bash", os.path.join(job_dir, "build.sh"), job_dir, spec["images_dir"]]
    words += [spec["source"]] if spec["source"] else []
    began = time.time()
    child = subprocess.Popen(
        words,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reader = Reader(job_dir, child)
    try:
        status = batch_job.wait_for(child, job_dir, group=True)
    finally:
        reader.join()
        if child.returncode:
            _tidy(spec)
    if status:
        kind, sentence = failure_in_words(reader.lines, str(reader.known.get("stage")), spec["pin"], spec["source"])
        batch_job.tell(job_dir, "failed", kind, sentence)
        raise Refused(sentence)
    _tell_done(job_dir, spec, reader.lines, int(time.time() - began))


class Reader(threading.Thread):
    """Reads what the build prints: into the log, the last lines, and progress.json."""

    def __init__(self, job_dir: str, child: Any) -> None:
        super().__init__(daemon=True)
        self.lines = []  # type: List[str]
        self.known = {}  # type: Progress
        self._job_dir, self._child, self._told = job_dir, child, 0.0
        self.start()

    def run(self) -> None:
        """Until the build, and all that it started, has closed its output."""
        for raw in self._child.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            print(line, flush=True)
            self.lines = [*self.lines, line][-TAIL_LINES:]
            self._note(progress_of(line, self.known))

    def _note(self, new: Progress) -> None:
        is_stage = new.get("stage") != self.known.get("stage")
        if new != self.known and (is_stage or time.time() - self._told > TELL_EVERY_S):
            self._told = time.time()
            batch_job.tell(self._job_dir, "running", **new)
        self.known = new


def place_for(spec: Spec) -> str:
    """The folder to build in, with room enough; the images' folder has room as well. Refused says what is missing."""
    place = os.path.expanduser(spec["build_dir"] or os.environ.get("TMPDIR") or "/tmp")
    node = os.uname().nodename.split(".")[0]
    os.makedirs(spec["images_dir"], exist_ok=True)
    if not os.path.isdir(place):
        raise Refused("%s has no folder %s to build in; name another as build_dir in the site file" % (node, place))
    for folder, needed, what, help_ in (
        (place, spec["build_gib"], "while it is built", "name a larger folder as build_dir in the site file"),
        (spec["images_dir"], spec["image_gib"], "when it is finished", "make room there"),
    ):
        free = free_bytes(folder)
        if free < needed * GIB:
            sentence = "the image %s takes about %d GiB %s, and %s on %s has %.1f GiB free; %s"
            raise Refused(sentence % (spec["pin"], needed, what, folder, node, free / GIB, help_))
    return place


def free_bytes(folder: str) -> int:
    """What a user may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def check_source(spec: Spec) -> None:
    """Refused where a staged folder was named that is none; where the site has staged the pin, that is taken."""
    source = spec["source"]
    if not source and os.path.isdir(os.path.expanduser(spec.get("staged") or "")):
        source = spec["staged"]
    if not source:
        return
    spec["source"] = source = os.path.expanduser(source)
    wanted = ("image.tar",) if spec["oci"] else ("base.tar", "wheels")
    missing = [name for name in wanted if not os.path.exists(os.path.join(source, name))]
    if missing:
        raise Refused("%s holds no %s; docs/images.md says how to stage an image" % (source, " and no ".join(missing)))


def _tidy(spec: Spec) -> None:
    """What build.sh could not clear away itself, because it was killed."""
    for folder in glob.glob(os.path.join(glob.escape(spec["images_dir"]), ".%s.??????" % spec["pin"])):
        shutil.rmtree(folder, ignore_errors=True)


def _tell_done(job_dir: str, spec: Spec, lines: List[str], seconds: int) -> None:
    digest = recorded_hash(dict(spec, image_sha256=None))
    size = os.path.getsize(spec["image"])
    current = any(line.startswith("bouchet: current") for line in lines)
    took = "built in %d s" % seconds
    sentence = "it was there already, made from the same recipe" if current else took
    if spec.get("image_sha256") and spec["image_sha256"].lower() != digest:
        sentence += (
            "; the site file names another sha256 (%s...), so jobs refuse it until that is changed"
            % (spec["image_sha256"][:12])
        )
    batch_job.tell(job_dir, "done", sentence=sentence, sha256=digest, bytes=size, seconds=seconds, current=current)


# signatures


def key_index(spec: Spec) -> str:
    """Where the site's key stands among the secret ones of Apptainer's keyring."""
    said = _output([spec["apptainer"], "key", "list", "--secret"])
    for number, block in re.findall(r"^(\d+)\)(.*?)(?=^\d+\)|\Z)", said, re.M | re.S):
        if spec["signing_key"].upper() in re.sub(r"[^0-9A-F]", "", block.upper()):
            return str(number)
    raise Refused("Apptainer's keyring has no secret key %s; `apptainer key list --secret`" % spec["signing_key"])


def signers(spec: Spec) -> List[str]:
    """Fingerprints of those whose signature on the image is good."""
    done = subprocess.run(
        [spec["apptainer"], "verify", "--local", "--json", spec["image"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        found = json.loads(done.stdout.decode("utf-8", "replace"))["SignerKeys"] or []
    except (ValueError, KeyError):
        return []
    good = [entry["Signer"] for entry in found if entry["Signer"].get("KeyCheck") and entry["Signer"].get("DataCheck")]
    return [str(one["Fingerprint"]).upper() for one in good]


def _output(words: List[str]) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout.decode("utf-8", "replace")


# verify


def verify(job_dir: str, spec: Spec, scratch: str) -> None:
    """Hashes the image anew, and compares with all that is recorded of it."""
    try:
        known = os.stat(spec["image"])
    except OSError as exc:
        raise Refused("the image %s cannot be read: %s" % (spec["image"], exc.strerror)) from exc
    found = _hash(job_dir, spec["image"], known.st_size)
    _check_records(spec, found)
    signed = ""
    if spec.get("signing_key"):
        if spec["signing_key"].upper() not in signers(spec):
            raise Refused("the image %s is not signed with the site's key %s" % (spec["image"], spec["signing_key"]))
        signed = ", signed with the site's key"
    _keep_for_starts(spec, known, found)
    sentence = "its sha256 is as recorded: %s...%s" % (found[:12], signed)
    batch_job.tell(job_dir, "done", sentence=sentence, sha256=found, bytes=known.st_size)


def _hash(job_dir: str, path: str, size: int) -> str:
    whole, read, told = hashlib.sha256(), 0, 0.0
    with open(path, "rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            if os.path.exists(os.path.join(job_dir, "stop")):
                raise batch_job.Stopped()
            whole.update(piece)
            read += len(piece)
            if time.time() - told > TELL_EVERY_S:
                told = time.time()
                mib = {"done": read >> 20, "of": size >> 20}
                batch_job.tell(job_dir, "running", step="hashing it", stage="hash", **mib)
    return whole.hexdigest()


def _check_records(spec: Spec, found: str) -> None:
    """Refused where a record says something else."""
    beside = dict(spec, image_sha256=None)
    manifest = read_json(spec["image"][: -len(".sif")] + ".manifest.json") or {}
    recorded = {
        "the file beside it": recorded_hash(beside),
        "its manifest": manifest.get("sif_sha256"),
        "the site file": (spec.get("image_sha256") or "").lower() or None,
    }  # type: Dict[str, Optional[str]]
    for where, digest in recorded.items():
        if digest and digest != found:
            words = "the image %s is not what it was: its sha256 is %s..., %s says %s...; build it again"
            raise Refused(words % (spec["image"], found[:12], where, digest[:12]))


def _keep_for_starts(spec: Spec, known: os.stat_result, found: str) -> None:
    """The note by which a job's start knows the hash of this very file."""
    folder = os.path.join(spec["root"], "cache", "hashes")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    note = os.path.join(folder, "%d-%d-%d" % (known.st_ino, known.st_size, known.st_mtime_ns))
    forget(note)
    write_whole(note, found + "\n")


COMMANDS = {"run": run, "detach": detach}


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
