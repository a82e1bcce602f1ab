"""Compiled kernels, used on the node's own disk and kept on the cluster's.

    python3 kernel_cache.py when-ready HEARTBEAT CACHE NAME   waits for vLLM to answer, then keeps what its start compiled
    python3 kernel_cache.py keep HEARTBEAT CACHE NAME         keeps what was compiled since then, at the job's end

HEARTBEAT: the file of the first node's watch; CACHE: the folder that the container sees; NAME: of this job and node.

Standard library and Python 3.6 only. Kept are layers: one tar for each job and node that compiled anything, with what
was new there, in a folder for each image, model and number of GPUs. A network disk likes one long file better than
thousands of small ones. A layer is renamed into place when it is whole and never changed: jobs side by side need no
lock. A job that found many puts all that it has into one, and removes those.
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

# below the folder that the container sees as /bouchet/cache; the rest there is of this run alone
KEPT = ("vllm", "triton", "inductor", "flashinfer", "cuda", "numba")
# which GPUs reach one another is true of a node; traces and the hub's assets are no kernels
NOT_KEPT = re.compile(r"(^|/)(gpu_p2p_access_cache[^/]*|assets|.*\.(lock|tmp))(/|$)")
MOST_LAYERS = 4
MOST_BYTES = 4 << 30
FETCH_S = 60
LOOK_S = 5
# a layer that was never finished, by a job that died
ABANDONED_S = 24 * 3600

# size and modification time in ns, by path below the cache
Files = Dict[str, Tuple[int, int]]
Spec = Dict[str, Any]


def folder_of(spec: Spec, digest: str) -> str:
    """Where the layers of that image's kernels for this model lie. The sizes of what is compiled depend on its GPUs."""
    shape = "%dx%d" % (spec["nodes"], spec["gpus"])
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", spec["model"]).lstrip(".")
    return os.path.join(spec["root"], "cache", digest[:16], "%s-%s" % (name, shape))


def fetch(folder: str, cache: str) -> None:
    """Fills the node's own cache with what earlier jobs kept. Without any, or with a disk that fails, it is empty."""
    os.makedirs(cache, exist_ok=True)
    deadline = time.monotonic() + FETCH_S
    found = []  # type: List[str]
    for layer in layers_in(folder):
        found.append(layer)
        try:
            unpack(os.path.join(folder, layer), cache, deadline)
        except (OSError, tarfile.TarError, EOFError) as exc:
            # cut short, or gone meanwhile: vLLM compiles what is missing
            sys.stderr.write("bouchet: kernels kept in %s could not be read (%s)\n" % (layer, exc))
    note(cache, {"folder": folder, "layers": found, "files": files_in(cache)})


def layers_in(folder: str) -> List[str]:
    """The whole layers, oldest first."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".tar"))
    except OSError:
        return []


def unpack(path: str, cache: str, deadline: float) -> None:
    """Each file comes whole or not at all; one that is there already stays."""
    with tarfile.open(path, "r|") as layer:
        for member in layer:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "more than %d s" % FETCH_S)
            target = os.path.join(cache, member.name)
            if not member.isreg() or not is_kept(member.name) or os.path.exists(target):
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            unpack_file(layer, member, target)


def unpack_file(layer: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    """With the time of its making, and the right to be run."""
    part = target + ".part"
    source = layer.extractfile(member)
    try:
        with open(part, "wb") as file:
            copied = 0
            for piece in iter(lambda: source.read(1 << 20) if source else b"", b""):
                copied += file.write(piece)
        if copied != member.size:
            raise EOFError("it ends early")
        os.chmod(part, 0o700 if member.mode & 0o100 else 0o600)
        os.utime(part, (member.mtime, member.mtime))
        os.rename(part, target)
    except BaseException:
        os.remove(part)
        raise


def is_kept(name: str) -> bool:
    """Whether a path below the cache is of kernels, and leads nowhere else."""
    parts = name.split("/")
    return parts[0] in KEPT and ".." not in parts and not NOT_KEPT.search(name)


def files_in(cache: str) -> Files:
    """All that would be kept now."""
    found = {}  # type: Files
    for top in KEPT:
        for folder, _, names in os.walk(os.path.join(cache, top)):
            for name in names:
                path = os.path.join(folder, name)
                below = os.path.relpath(path, cache)
                try:
                    known = os.lstat(path)
                except OSError:
                    continue
                if is_kept(below) and not os.path.islink(path):
                    found[below] = (known.st_size, known.st_mtime_ns)
    return found


def note(cache: str, document: Dict[str, Any]) -> None:
    """What was fetched or kept last, beside the cache."""
    with open(cache + ".note.new", "w", encoding="utf-8") as target:
        json.dump(document, target)
    os.rename(cache + ".note.new", cache + ".note")


def keep(heartbeat: str, cache: str, source_name: str) -> None:
    """One layer more, if anything is new, where the job has answered at all: kernels of one that fails may be why.

    source_name: of job and node, in the layer's name.
    """
    with open(cache + ".note", encoding="utf-8") as source:
        noted = json.load(source)
    if not noted.get("ready") and not is_ready(heartbeat):
        return
    before = {name: tuple(facts) for name, facts in noted["files"].items()}
    now = files_in(cache)
    is_many = len(noted["layers"]) > MOST_LAYERS
    new = sorted(now) if is_many else sorted(name for name in now if now[name] != before.get(name))
    if new:
        layer = write_layer(noted["folder"], source_name, cache, new)
        if layer and is_many:
            forget_layers(noted["folder"], noted["layers"])
        noted["layers"] = ([] if is_many else noted["layers"]) + ([layer] if layer else [])
    note(cache, dict(noted, files=now, ready=True))


def write_layer(folder: str, source_name: str, cache: str, names: List[str]) -> Optional[str]:
    """The name of the new layer; None where it would be larger than anybody wants to fetch."""
    size = sum(os.path.getsize(os.path.join(cache, name)) for name in names)
    if size > MOST_BYTES:
        sys.stderr.write("bouchet: %.1f GB of new kernels are not kept: too many\n" % (size / 1e9))
        return None
    os.makedirs(folder, mode=0o700, exist_ok=True)
    sweep(folder)
    layer = "%010d-%s.tar" % (time.time(), source_name)
    beside = os.path.join(folder, "%s.%d.new" % (layer, os.getpid()))
    try:
        with open(beside, "wb") as target:
            with tarfile.open(fileobj=target, mode="w|") as archive:
                for name in names:
                    add(archive, os.path.join(cache, name), name)
            target.flush()
            os.fsync(target.fileno())
        os.rename(beside, os.path.join(folder, layer))
    except BaseException:
        os.remove(beside)
        raise
    return layer


def add(archive: tarfile.TarFile, path: str, name: str) -> None:
    """One file; vLLM may have removed it meanwhile."""
    try:
        archive.add(path, name, recursive=False)
    except FileNotFoundError:
        pass


def sweep(folder: str) -> None:
    """Removes layers that nobody will finish."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if name.endswith(".new") and time.time() - os.stat(path).st_mtime > ABANDONED_S:
                os.remove(path)
        except OSError:
            pass


def forget_layers(folder: str, names: List[str]) -> None:
    """Removes layers; another job may have done it, and one that is reading them goes on without."""
    for name in names:
        try:
            os.remove(os.path.join(folder, name))
        except OSError:
            pass


def is_ready(heartbeat: str) -> bool:
    """Whether this run's vLLM has answered its health check, on all nodes at once: the first one's watch says so."""
    try:
        with open(heartbeat, encoding="utf-8") as source:
            return bool(json.load(source).get("state") == "ok")
    except (OSError, ValueError):
        return False


def main(command: str, heartbeat: str, cache: str, source_name: str) -> int:
    """Exit status 1 and a sentence on stderr when nothing could be kept."""
    # who is told to stop leaves no half layer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    while command == "when-ready" and not is_ready(heartbeat):
        time.sleep(LOOK_S)
    try:
        keep(heartbeat, cache, source_name)
    except (OSError, ValueError) as exc:
        sys.stderr.write("bouchet: the kernels that vLLM compiled could not be kept for the next start (%s)\n" % exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
