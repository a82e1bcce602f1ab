"""Compiled kernels: used on the node's own disk, saved on the cluster's. Python 3.6, standard library.

    python3 kernel_cache.py when-ready HEARTBEAT CACHE NAME   wait until vLLM answers, then save what its start compiled
    python3 kernel_cache.py save HEARTBEAT CACHE NAME         save what was compiled since then, at the job's end

HEARTBEAT: heartbeat file of the job; CACHE: the folder that the container sees; NAME: of this job and node.

Kernels are saved in layers: one tar for each job and node that compiled something, with what was new there, in a folder
for each image, model and number of GPUs. A network disk handles one long file better than thousands of small ones. A
layer is renamed into place when it is complete and never changed, so parallel jobs need no lock. A job that found many
layers writes all it has into one and removes the others.
"""

import errno
import json
import os
import re
import signal
import sys
import tarfile
import time
from typing import Any, Dict, List, Optional, Tuple

# below the folder that the container sees as /bouchet/cache; everything else there is of this run only
SAVED_FOLDERS = ("vllm", "triton", "inductor", "flashinfer", "cuda", "numba")
# GPU peer access differs by node; traces and the hub's assets are no kernels
NOT_SAVED = re.compile(r"(^|/)(gpu_p2p_access_cache[^/]*|assets|.*\.(lock|tmp))(/|$)")
MAX_LAYERS = 4
MAX_LAYER_BYTES = 4 << 30
FETCH_TIMEOUT_S = 60
POLL_S = 5
# an unfinished layer of this age was left by a job that died
ABANDONED_S = 24 * 3600

# size and modification time in ns, by path below the cache
Files = Dict[str, Tuple[int, int]]
Spec = Dict[str, Any]


def layers_folder(spec: Spec, digest: str) -> str:
    """Return the folder of the layers for an image (its sha256), a model and a number of GPUs."""
    shape = "%dx%d" % (spec["nodes"], spec["gpus"])
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", spec["model"]).lstrip(".")
    return os.path.join(spec["root"], "cache", digest[:16], "%s-%s" % (name, shape))


def fetch(folder: str, cache: str) -> None:
    """Fill the node's cache with the layers of earlier jobs. It stays empty without layers, or when the disk fails."""
    os.makedirs(cache, exist_ok=True)
    deadline = time.monotonic() + FETCH_TIMEOUT_S
    found: List[str] = []
    for layer in list_layers(folder):
        found.append(layer)
        try:
            unpack(os.path.join(folder, layer), cache, deadline)
        except (OSError, tarfile.TarError, EOFError) as exc:
            # truncated, or removed by another job meanwhile: vLLM compiles what is missing
            sys.stderr.write("bouchet: cannot read the compiled kernels in %s (%s)\n" % (layer, exc))
    write_state(cache, {"folder": folder, "layers": found, "files": list_files(cache)})


def list_layers(folder: str) -> List[str]:
    """Return the complete layers, oldest first."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".tar"))
    except OSError:
        return []


def unpack(path: str, cache: str, deadline: float) -> None:
    """Unpack a layer; each file appears complete or not at all, and existing ones are kept."""
    with tarfile.open(path, "r|") as layer:
        for member in layer:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "more than %d s" % FETCH_TIMEOUT_S)
            target = os.path.join(cache, member.name)
            if not member.isreg() or not is_saved(member.name) or os.path.exists(target):
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            unpack_file(layer, member, target)


def unpack_file(layer: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    """Unpack one file with its modification time and its owner's right to execute it."""
    part = target + ".part"
    source = layer.extractfile(member)
    try:
        with open(part, "wb") as file:
            copied = 0
            for piece in iter(lambda: source.read(1 << 20) if source else b"", b""):
                copied += file.write(piece)
        if copied != member.size:
            raise EOFError("truncated")
        os.chmod(part, 0o700 if member.mode & 0o100 else 0o600)
        os.utime(part, (member.mtime, member.mtime))
        os.rename(part, target)
    except BaseException:
        os.remove(part)
        raise


def is_saved(name: str) -> bool:
    """Return whether a path is one of kernels and stays below the cache."""
    parts = name.split("/")
    return parts[0] in SAVED_FOLDERS and ".." not in parts and not NOT_SAVED.search(name)


def list_files(cache: str) -> Files:
    """Return all files that would be saved now."""
    found: Files = {}
    for top in SAVED_FOLDERS:
        for folder, _, names in os.walk(os.path.join(cache, top)):
            for name in names:
                path = os.path.join(folder, name)
                below = os.path.relpath(path, cache)
                try:
                    known = os.lstat(path)
                except OSError:
                    continue
                if is_saved(below) and not os.path.islink(path):
                    found[below] = (known.st_size, known.st_mtime_ns)
    return found


def write_state(cache: str, state: Dict[str, Any]) -> None:
    """Write which layers and files were fetched or saved last, to a file next to the cache."""
    with open(cache + ".state.new", "w", encoding="utf-8") as target:
        json.dump(state, target)
    os.rename(cache + ".state.new", cache + ".state")


def save(heartbeat: str, cache: str, source_name: str) -> None:
    """Write one more layer if anything is new. Kernels of a job that never answered are not saved: they may be why.

    source_name: of job and node, part of the layer's name.
    """
    with open(cache + ".state", encoding="utf-8") as source:
        state = json.load(source)
    if not state.get("ready") and not is_ready(heartbeat):
        return
    before = {name: tuple(facts) for name, facts in state["files"].items()}
    now = list_files(cache)
    is_many = len(state["layers"]) > MAX_LAYERS
    new = sorted(now) if is_many else sorted(name for name in now if now[name] != before.get(name))
    if new:
        layer = write_layer(state["folder"], source_name, cache, new)
        if layer and is_many:
            remove_layers(state["folder"], state["layers"])
        state["layers"] = ([] if is_many else state["layers"]) + ([layer] if layer else [])
    write_state(cache, dict(state, files=now, ready=True))


def write_layer(folder: str, source_name: str, cache: str, names: List[str]) -> Optional[str]:
    """Write a layer and return its name; None where it would be too large to fetch at each start."""
    size = sum(os.path.getsize(os.path.join(cache, name)) for name in names)
    if size > MAX_LAYER_BYTES:
        sys.stderr.write("bouchet: %.1f GB of compiled kernels are not saved: too large\n" % (size / 1e9))
        return None
    os.makedirs(folder, mode=0o700, exist_ok=True)
    remove_abandoned(folder)
    layer = "%010d-%s.tar" % (time.time(), source_name)
    beside = os.path.join(folder, "%s.%d.new" % (layer, os.getpid()))
    try:
        with open(beside, "wb") as target:
            with tarfile.open(fileobj=target, mode="w|") as archive:
                for name in names:
                    add_file(archive, os.path.join(cache, name), name)
            target.flush()
            os.fsync(target.fileno())
        os.rename(beside, os.path.join(folder, layer))
    except BaseException:
        os.remove(beside)
        raise
    return layer


def add_file(archive: tarfile.TarFile, path: str, name: str) -> None:
    """Add one file, unless vLLM has removed it meanwhile."""
    try:
        archive.add(path, name, recursive=False)
    except FileNotFoundError:
        pass


def remove_abandoned(folder: str) -> None:
    """Remove unfinished layers of jobs that died."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if name.endswith(".new") and time.time() - os.stat(path).st_mtime > ABANDONED_S:
                os.remove(path)
        except OSError:
            pass


def remove_layers(folder: str, names: List[str]) -> None:
    """Remove layers. Another job may have done so already; one that is reading them goes on without."""
    for name in names:
        try:
            os.remove(os.path.join(folder, name))
        except OSError:
            pass


def is_ready(heartbeat: str) -> bool:
    """Return whether vLLM has passed its health check, by the heartbeat file of the job's first node."""
    try:
        with open(heartbeat, encoding="utf-8") as source:
            return bool(json.load(source).get("state") == "ok")
    except (OSError, ValueError):
        return False


def main(command: str, heartbeat: str, cache: str, source_name: str) -> int:
    """Save once; return 1, with a message on stderr, when it fails."""
    # SIGTERM runs the `except` clauses, so no unfinished layer is left
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    while command == "when-ready" and not is_ready(heartbeat):
        time.sleep(POLL_S)
    try:
        save(heartbeat, cache, source_name)
    except (OSError, ValueError) as exc:
        sys.stderr.write("bouchet: the compiled kernels could not be saved for the next start (%s)\n" % exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
