"""The job's files, read and written on the node: `python3 job_files.py COMMAND JOB_DIR ...`.

Standard library and Python 3.6 only: it runs under whatever Python the cluster's operating system brings (RHEL 8: 3.6).

    prepare JOB_DIR SCRATCH         checks image and model; leaves SCRATCH/vllm.args and SCRATCH/facts.json; prints
                                    apptainer, image, model, cache, port, listen, binds, one a line; status 1: why not
    environment JOB_DIR ADDRESS     NAME=value of vLLM in the container, each ended by NUL
    meet PORT NODE...               where the job's nodes meet: this node's address and two ports, one a line
    address HOST                    this node's address on the way to that host
    other-port JOB_DIR MARK         another port, where the log says from there on that one was taken; else status 1
    connect JOB_DIR SCRATCH PORT WORD...   writes connection-<job id>.json; words: further ones of vLLM's command
    end JOB_DIR KIND STATUS MARK WORDS   writes end-<job id>.json
"""

import errno
import hashlib
import json
import os
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Tuple

from gpu_driver import gpus_and_driver, image_facts, problem_with
from joblog import error_lines, says_port_taken
from kernel_cache import fetch, folder_of
from model_folder import find, flaw_in, is_quantised, outside, purge_words, read_note
from network import address_towards, free_ports, listening, network_environment, socket_problem
from provenance import given_to_vllm, software_of
from weights import describe

SPEC_VERSION = 1
READ_BYTES = 1 << 20
# inside the container
CACHE = "/bouchet/cache"
CACHE_ENVIRONMENT = {
    "VLLM_CACHE_ROOT": CACHE + "/vllm",
    "VLLM_CONFIG_ROOT": CACHE + "/config",
    "TRITON_CACHE_DIR": CACHE + "/triton",
    "TORCHINDUCTOR_CACHE_DIR": CACHE + "/inductor",
    "FLASHINFER_WORKSPACE_BASE": CACHE + "/flashinfer",
    "CUDA_CACHE_PATH": CACHE + "/cuda",
    "HF_HOME": CACHE + "/hf",
    "XDG_CACHE_HOME": CACHE + "/xdg",
    "XDG_CONFIG_HOME": CACHE + "/config",
    "NUMBA_CACHE_DIR": CACHE + "/numba",
}
FIXED_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",
    "TMPDIR": "/tmp",
    # big models load for longer than vLLM's 600 s
    "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
    "VLLM_NO_USAGE_STATS": "1",
    "BOUCHET_DRAIN_FILE": "/bouchet/job/drain",
}

Spec = Dict[str, Any]


class Refused(Exception):
    """The job cannot start; the message is the sentence for people."""


def read_spec(job_dir: str) -> Spec:
    """spec.json, its paths without `~`."""
    try:
        with open(os.path.join(job_dir, "spec.json"), encoding="utf-8") as source:
            spec = json.load(source)  # type: Spec
    except (OSError, ValueError) as exc:
        raise Refused("the job's spec.json cannot be read: %s; launch again" % exc) from exc
    if spec.get("version") != SPEC_VERSION:
        raise Refused("spec.json has version %r, this script reads %d" % (spec.get("version"), SPEC_VERSION))
    for name in ("root", "models_dir", "image"):
        spec[name] = os.path.expanduser(spec[name])
    spec.setdefault("listen", "network")
    return spec


def log_path(spec: Spec, name: str) -> str:
    """A file among the logs; {} stands for the job's id."""
    return os.path.join(spec["root"], "logs", name.format(os.environ["SLURM_JOB_ID"]))


def write_whole(path: str, text: str) -> None:
    """Readers see the old file or the new one, never half of it. Mode 0600."""
    beside = "%s.%d.tmp" % (path, os.getpid())
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
            target.flush()
            os.fsync(target.fileno())
        os.rename(beside, path)
    except OSError as exc:
        if os.path.exists(beside):
            os.remove(beside)
        # a write says no name
        raise OSError(exc.errno, exc.strerror, path) from exc


def disk_words(exc: OSError) -> str:
    """What a disk refused, and what to do about it."""
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room there, then launch again" if full else "launch again; if it stays so, ask the site's support"
    return "%s on %s: %s; %s" % (exc.filename or "a file", node_name(), exc.strerror, advice)


def forget(path: str) -> None:
    """Removes a file that may not be there."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


def write_json(path: str, document: Dict[str, Any]) -> None:
    """write_whole of a JSON document."""
    write_whole(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


# image


def recorded_hash(spec: Spec) -> str:
    """The pin's sha256: from the site file, else from the file beside the image. Refused where there is none."""
    if spec.get("image_sha256"):
        return str(spec["image_sha256"]).lower()
    beside = spec["image"] + ".sha256"
    try:
        with open(beside, encoding="ascii", errors="replace") as source:
            words = source.read().split()
    except FileNotFoundError as exc:
        raise Refused("no hash is recorded for the image: there is no %s; build or verify it again" % beside) from exc
    if not words or not re.match(r"^[0-9a-fA-F]{64}$", words[0]):
        raise Refused("%s holds no sha256; build or verify the image again" % beside)
    return words[0].lower()


def checked_image(spec: Spec) -> str:
    """The image's sha256, which is the recorded one. Computed once per content: kept by inode, size and mtime."""
    wanted = recorded_hash(spec)
    try:
        known = os.stat(spec["image"])
    except FileNotFoundError as exc:
        words = "there is no image %s; `bouchet image build` makes it"
        raise Refused(words % spec["image"]) from exc
    folder = os.path.join(spec["root"], "cache", "hashes")
    note = os.path.join(folder, "%d-%d-%d" % (known.st_ino, known.st_size, known.st_mtime_ns))
    found = read_note(note)
    if found is None:
        found = hash_of(spec["image"])
        os.makedirs(folder, mode=0o700, exist_ok=True)
        write_whole(note, found + "\n")
    if found != wanted:
        words = "the image %s is not the pinned one: its sha256 is %s..., recorded is %s...; build it again"
        raise Refused(words % (spec["image"], found[:12], wanted[:12]))
    return found


def hash_of(path: str) -> str:
    """sha256 of a file, in hex."""
    whole = hashlib.sha256()
    with open(path, "rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            whole.update(piece)
    return whole.hexdigest()


# model


def find_model(spec: Spec) -> Tuple[str, Optional[str]]:
    """Directory and revision (commit, where known) of the whole model; Refused where it is not there, or not whole."""
    pinned = spec.get("model_revision")
    found, revision = find(spec["models_dir"], spec["model"], pinned)
    if found and pinned and revision != pinned:
        words = (
            "the model %s is commit %s, and this launch is to run %s; `bouchet download %s --revision %s` fetches it"
        )
        raise Refused(words % (spec["model"], revision, pinned, spec["model"], pinned))
    if not found:
        words = "the model %s is not in %s; `bouchet download %s` fetches it"
        raise Refused(words % (spec["model"], spec["models_dir"], spec["model"]))
    flaw = flaw_in(found)
    if flaw:
        words = "the model in %s is not whole: %s; `bouchet download %s` fetches it again"
        raise Refused(words % (found, flaw, spec["model"]))
    return found, revision


def mark_used(spec: Spec) -> None:
    """Leaves word that the model was served now, among our own files: the model's may not be touched, nor be ours."""
    mark = os.path.join(spec["root"], "cache", "used", spec["model"].replace("/", "--"))
    try:
        os.makedirs(os.path.dirname(mark), mode=0o700, exist_ok=True)
        write_whole(mark, "")
    except OSError:
        pass


def arguments(job_dir: str, model: str) -> List[str]:
    """vllm.args, without --quantization where the checkpoint is quantised already."""
    try:
        with open(os.path.join(job_dir, "vllm.args"), encoding="utf-8") as source:
            words = source.read().splitlines()
    except OSError as exc:
        raise Refused("the job's vllm.args cannot be read: %s; launch again" % exc.strerror) from exc
    if "--quantization" in words and is_quantised(model):
        at = words.index("--quantization")
        del words[at : at + 2]
    return words


# node


def node_name() -> str:
    """The node as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


# commands


def prepare(job_dir: str, scratch: str) -> None:
    """Prints what the batch script needs; see the head of this file."""
    try:
        lines = _prepared(job_dir, scratch)
    except (Refused, OSError) as exc:
        print(disk_words(exc) if isinstance(exc, OSError) else exc)
        raise
    sys.stdout.write("".join(line + "\n" for line in lines))


def _prepared(job_dir: str, scratch: str) -> List[str]:
    spec = read_spec(job_dir)
    cache = os.path.join(scratch, "cache")
    with ThreadPoolExecutor(2) as beside:
        # nvidia-smi takes a second or two, and so may the disks
        looked = beside.submit(gpus_and_driver)
        digest = checked_image(spec)
        model, revision = find_model(spec)
        weights = beside.submit(describe, model)
        fetch(folder_of(spec, digest), cache)
        gpus, driver = looked.result()
    image = image_facts(spec["image"])
    problem = problem_with(spec["image"], image, driver, node_name()) or socket_problem(spec["listen"], scratch)
    if problem:
        raise Refused(problem)
    mark_used(spec)
    note = purge_words(model, spec.get("purge_days"), time.time())
    if note:
        sys.stderr.write("bouchet: %s\n" % note)
    words = arguments(job_dir, model)
    write_whole(os.path.join(scratch, "vllm.args"), "".join(word + "\n" for word in words))
    write_json(
        os.path.join(scratch, "facts.json"),
        {
            "image_sha256": digest,
            "model_revision": revision,
            "command": ["vllm", "serve", model, *words],
            "gpus": gpus,
            "driver": driver,
            "torch": image.get("torch"),
            "note": note,
            "weights": weights.result(),
            "software": software_of(image, words, model),
        },
    )
    binds = [spec["models_dir"], *outside(model, spec["models_dir"])]
    return [spec["apptainer"], spec["image"], model, cache, str(free_ports(1)[0]), spec["listen"]] + [
        "%s:%s:ro" % (b, b) for b in binds
    ]


def environment(job_dir: str, address: str) -> None:
    """vLLM's environment, each pair ended by NUL. The catalog's values win over ours. address: empty on one node."""
    spec = read_spec(job_dir)
    values = dict(FIXED_ENVIRONMENT)
    values.update(CACHE_ENVIRONMENT)
    values.update(network_environment(address) if address else {})
    values.update(spec["env"])
    own = values.get("PYTHONPATH")
    values["PYTHONPATH"] = "/bouchet/remote" + (":" + own if own else "")
    for name in ("CUDA_VISIBLE_DEVICES", "TZ"):
        if name in os.environ:
            values.setdefault(name, os.environ[name])
    sys.stdout.write("".join("%s=%s\0" % pair for pair in sorted(values.items())))


def meet(port: str, *others: str) -> None:
    """Prints this node's address as the others see it, and two free ports besides the server's."""
    ports = free_ports(2, [int(port)])
    print("\n".join([address_towards(others[0]), *map(str, ports)]))


def address(host: str) -> None:
    """Prints this node's address as that host sees it."""
    print(address_towards(host))


def other_port(job_dir: str, begin_at: str) -> None:
    """Prints a free port when vLLM, or one of its ranks, found its own taken; nobody is to ask at the old one."""
    spec = read_spec(job_dir)
    if not says_port_taken(log_path(spec, "{}.log"), int(begin_at or 0)):
        sys.exit(1)
    forget(log_path(spec, "connection-{}.json"))
    print(free_ports(1)[0])


def connect(job_dir: str, scratch: str, port: str, *words: str) -> None:
    """Says where this vLLM listens and what it is."""
    spec = read_spec(job_dir)
    with open(os.path.join(scratch, "facts.json"), encoding="utf-8") as source:
        facts = json.load(source)  # type: Dict[str, Any]
    document = {
        "version": SPEC_VERSION,
        "job_name": spec["job_name"],
        "deployment": spec["deployment"],
        "slurm_id": int(os.environ["SLURM_JOB_ID"]),
        "node": node_name(),
        "model": spec["model"],
        "names": spec["names"],
        "window": spec["window"],
        "image": os.path.basename(spec["image"]),
        "vllm": spec["vllm"],
        # its /health proves that it holds the key (guard.py)
        "proves": True,
        "started_at": int(time.time()),
    }
    document.update(facts)
    document.update(listening(spec["listen"], port, scratch))
    document["command"] += words
    document["nodelist"] = os.environ.get("SLURM_JOB_NODELIST")
    document["software"].update(given_to_vllm(scratch))
    write_json(log_path(spec, "connection-{}.json"), document)


def end(job_dir: str, kind: str, status: str, mark: str, *words: str) -> None:
    """Says why the job ended. mark: where vLLM's last start begins in the log; what failed before was got over."""
    spec = read_spec(job_dir)
    document = {
        "job_name": spec["job_name"],
        "kind": kind,
        "exit_status": int(status),
        "sentence": " ".join(words),
        "tail": error_lines(log_path(spec, "{}.log"), read_note(os.path.join(job_dir, "key")), int(mark or 0))
        if kind == "vllm_exited"
        else [],
        "at": int(time.time()),
    }
    write_json(log_path(spec, "end-{}.json"), document)
    try:
        # it leads nowhere from now on
        os.remove(log_path(spec, "connection-{}.json"))
    except OSError:
        pass


COMMANDS = {
    "prepare": prepare,
    "environment": environment,
    "meet": meet,
    "address": address,
    "other-port": other_port,
    "connect": connect,
    "end": end,
}


def main(argv: List[str], commands: Dict[str, Callable[..., None]]) -> int:
    """Exit status 1 and a sentence on stderr when it cannot be done."""
    try:
        commands[argv[1]](*argv[2:])
    except (Refused, OSError) as exc:
        sys.stderr.write("bouchet: %s\n" % exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
