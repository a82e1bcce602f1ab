"""Steps of a vLLM job that its shell scripts call: `python3 vllm_job.py COMMAND JOB_DIR ...`. Python 3.6.

prepare JOB_DIR SCRATCH         check image and model; write SCRATCH/vllm.args and SCRATCH/facts.json; print
                                apptainer, image, model, cache, port, listen, binds, one a line; or why not
environment JOB_DIR ADDRESS     print NAME=value of vLLM in the container, each terminated by NUL
rendezvous PORT NODE...         print this node's address for the other nodes and two free ports, one a line
address HOST                    print this node's address on the route to that host
other-port JOB_DIR LOG_OFFSET   print another port if the log, from there on, says that one was taken; else status 1
connect JOB_DIR SCRATCH PORT ARGUMENT...   write connection-<job id>.json; ARGUMENT: more of `vllm serve`
end JOB_DIR KIND STATUS LOG_OFFSET SENTENCE   write end-<job id>.json
"""

import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Tuple

import kernel_cache
from image_file import check_image
from job_files import (
    SPEC_VERSION,
    Commands,
    JobRefusedError,
    Spec,
    describe_disk_error,
    log_path,
    node_name,
    read_spec,
    read_text,
    remove_if_exists,
    run_command,
    write_json,
    write_whole,
)
from model_folder import find_damage, find_in_folders, is_quantized, linked_folders, purge_warning
from network import LOOPBACK, address_towards, free_ports, listening, network_environment, socket_problem
from provenance import describe_software, driver_problem, gpus_and_driver, image_facts, read_container_command
from weights import describe_weights

# in the container
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
    # big models load for longer than vLLM's default of 600 s
    "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
    # clients' APIs allow more than vLLM's default of 4
    "VLLM_MAX_STOP_STRINGS": "1024",
    "VLLM_NO_USAGE_STATS": "1",
    "BOUCHET_DRAIN_FILE": "/bouchet/job/drain",
}
LOG_TAIL_BYTES = 64 * 1024
LOG_TAIL_LINES = 5
ERROR_LINE = re.compile(
    r"\b\w*(Error|Exception|error):|Value error,|^FATAL:|died unexpectedly|out of memory|No space left"
)
# vLLM also warns of errors that might happen
NO_ERROR_LINE = re.compile(r"\b(?:INFO|WARNING) \d\d-\d\d [\d:]+ \[")


def prepare(job_dir: str, scratch: str) -> None:
    """Check image, model and node, and print what the batch script needs."""
    try:
        lines = _prepare(job_dir, scratch)
    except (JobRefusedError, OSError) as exc:
        print(describe_disk_error(exc) if isinstance(exc, OSError) else exc)
        raise
    sys.stdout.write("".join(line + "\n" for line in lines))


def _prepare(job_dir: str, scratch: str) -> List[str]:
    spec = read_spec(job_dir)
    cache = os.path.join(scratch, "cache")
    with ThreadPoolExecutor(2) as pool:
        # nvidia-smi takes a second or two, and so may the disks
        hardware = pool.submit(gpus_and_driver)
        digest = check_image(spec)
        model, revision = check_model(spec)
        weights = pool.submit(describe_weights, model)
        kernel_cache.fetch(kernel_cache.layers_folder(spec, digest), cache)
        gpus, driver = hardware.result()
    image = image_facts(spec["image"])
    problem = driver_problem(spec["image"], image, driver, node_name()) or socket_problem(spec["listen"], scratch)
    if problem:
        raise JobRefusedError(problem)
    record_use(spec)
    note = purge_warning(model, spec.get("purge_days"), time.time())
    if note:
        sys.stderr.write("bouchet: %s\n" % note)
    arguments = read_arguments(job_dir, model)
    write_whole(os.path.join(scratch, "vllm.args"), "".join(argument + "\n" for argument in arguments))
    facts: Dict[str, Any] = {
        "image_sha256": digest,
        "model_revision": revision,
        "command": ["vllm", "serve", model, *arguments],
        "gpus": gpus,
        "driver": driver,
        "torch": image.get("torch"),
        "note": note,
        "weights": weights.result(),
        "software": describe_software(image, arguments, model),
    }
    write_json(os.path.join(scratch, "facts.json"), facts)
    home = next(one for one in models_dirs(spec) if (model + "/").startswith(one.rstrip("/") + "/"))
    binds = [home, *linked_folders(model, home)]
    return [spec["apptainer"], spec["image"], model, cache, str(free_ports(1)[0]), spec["listen"]] + [
        "%s:%s:ro" % (b, b) for b in binds
    ]


def check_model(spec: Spec) -> Tuple[str, Optional[str]]:
    """Return folder and commit (where known) of the model; JobRefusedError where it is missing, damaged or another."""
    model, pinned = spec["model"], spec.get("model_revision")
    found, revision = find_in_folders(models_dirs(spec), model, pinned)
    if found and pinned and revision != pinned:
        message = "the model %s is at commit %s, but this launch needs %s; run `bouchet download %s --revision %s`"
        raise JobRefusedError(message % (model, revision, pinned, model, pinned))
    if not found:
        message = "the model %s is not in %s; run `bouchet download %s`"
        raise JobRefusedError(message % (model, ", ".join(models_dirs(spec)), model))
    damage = find_damage(found)
    if damage:
        message = "the model in %s is damaged or incomplete: %s; run `bouchet download %s` to download it again"
        raise JobRefusedError(message % (found, damage, model))
    return found, revision


def models_dirs(spec: Spec) -> List[str]:
    """Return models_dir and the shared directories, in which models are only read."""
    return [spec["models_dir"], *(os.path.expanduser(path) for path in spec.get("models_dirs") or ())]


def record_use(spec: Spec) -> None:
    """Record among our own files that the model was served now: the model's folder may belong to another user."""
    path = os.path.join(spec["root"], "cache", "used", spec["model"].replace("/", "--"))
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_whole(path, "")
    except OSError:
        pass


def read_arguments(job_dir: str, model: str) -> List[str]:
    """Return vllm.args, without --quantization where the checkpoint is quantized already."""
    try:
        with open(os.path.join(job_dir, "vllm.args"), encoding="utf-8") as source:
            arguments = source.read().splitlines()
    except OSError as exc:
        raise JobRefusedError("cannot read the job's vllm.args: %s; launch again" % exc.strerror) from exc
    if "--quantization" in arguments and is_quantized(model):
        at = arguments.index("--quantization")
        del arguments[at : at + 2]
    return arguments


def environment(job_dir: str, address: str) -> None:
    """Print vLLM's environment. The catalog's values override ours.

    address: empty on one node, where vLLM's process groups need no other interface than the loopback.
    """
    spec = read_spec(job_dir)
    values = dict(FIXED_ENVIRONMENT)
    values.update(CACHE_ENVIRONMENT)
    values.update(network_environment(address or LOOPBACK))
    values.update(spec["env"])
    own = values.get("PYTHONPATH")
    values["PYTHONPATH"] = "/bouchet/remote" + (":" + own if own else "")
    for name in ("CUDA_VISIBLE_DEVICES", "TZ"):
        if name in os.environ:
            values.setdefault(name, os.environ[name])
    sys.stdout.write("".join("%s=%s\0" % pair for pair in sorted(values.items())))


def rendezvous(port: str, *others: str) -> None:
    """Print this node's address as the other nodes see it, and two free ports besides the server's."""
    ports = free_ports(2, [int(port)])
    print("\n".join([address_towards(others[0]), *map(str, ports)]))


def address(host: str) -> None:
    """Print this node's address as that host sees it."""
    print(address_towards(host))


def other_port(job_dir: str, log_offset: str) -> None:
    """Print a free port when vLLM, or one of its ranks, found its own taken; remove the connection file of that one."""
    spec = read_spec(job_dir)
    if not found_port_taken(log_path(spec, "{}.log"), int(log_offset or 0)):
        sys.exit(1)
    remove_if_exists(log_path(spec, "connection-{}.json"))
    print(free_ports(1)[0])


def connect(job_dir: str, scratch: str, port: str, *arguments: str) -> None:
    """Write the connection file: where this vLLM listens, and what it is."""
    spec = read_spec(job_dir)
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
        # its /health proves that it has the key (guard.py)
        "proves": True,
        # ... and keeps answers whose connections are lost (resumable.py); the number is the version of that protocol
        "resumes": 1,
        "started_at": int(time.time()),
    }
    with open(os.path.join(scratch, "facts.json"), encoding="utf-8") as source:
        document.update(json.load(source))
    document.update(listening(spec["listen"], port, scratch))
    document["command"] += arguments
    document["nodelist"] = os.environ.get("SLURM_JOB_NODELIST")
    document["software"].update(read_container_command(scratch))
    write_json(log_path(spec, "connection-{}.json"), document)


def end(job_dir: str, kind: str, status: str, log_offset: str, *sentence: str) -> None:
    """Write the end record, and remove the connection file. log_offset: where vLLM's last start begins in the log."""
    spec = read_spec(job_dir)
    tail: List[str] = []
    if kind == "vllm_exited":
        key = read_text(os.path.join(job_dir, "key"))
        tail = error_lines(log_path(spec, "{}.log"), key, int(log_offset or 0))
    document = {
        "job_name": spec["job_name"],
        "kind": kind,
        "exit_status": int(status),
        "sentence": " ".join(sentence),
        "tail": tail,
        "at": int(time.time()),
    }
    write_json(log_path(spec, "end-{}.json"), document)
    try:
        os.remove(log_path(spec, "connection-{}.json"))
    except OSError:
        pass


def error_lines(path: str, key: Optional[str] = None, log_offset: int = 0) -> List[str]:
    """Return the last lines of a log that name an error, from that byte on, without vLLM's prefixes and keys."""
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(log_offset, source.tell() - LOG_TAIL_BYTES))
            lines = source.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    errors = [line for line in plain if ERROR_LINE.search(line) and not NO_ERROR_LINE.search(line)]
    # on several nodes each line begins with the node's name, which is kept
    prefix = r"^([\w.-]+: )?(?:\([^)]*\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?"
    return [mask_keys(re.sub(prefix, r"\1", line).strip(), key)[:500] for line in errors][-LOG_TAIL_LINES:]


def mask_keys(line: str, key: Optional[str]) -> str:
    """Return the line without this key and without what looks like one."""
    plain = line.replace(key, "***") if key else line
    return re.sub(r"\b(hf_|sk-)[A-Za-z0-9_-]{8,}|(?<=Bearer )\S+", "***", plain)


def found_port_taken(path: str, log_offset: int) -> bool:
    """Return whether, from that byte on, a server logged that its port was in use."""
    try:
        with open(path, "rb") as source:
            source.seek(log_offset)
            return bool(re.search(rb"EADDRINUSE|[Aa]ddress already in use", source.read()))
    except OSError:
        return False


COMMANDS: Commands = {
    "prepare": prepare,
    "environment": environment,
    "rendezvous": rendezvous,
    "address": address,
    "other-port": other_port,
    "connect": connect,
    "end": end,
}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv, COMMANDS))
