"""The Debian base images: pulled by the digest of the lock, or made of this machine's own package source.

Which one an image was built from is in its labels (org.opencontainers.image.base.*), and `make status` prints it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from setup.command import ensure_program, run, try_run
from setup.errors import CommandFailedError, DiskFullError, SetupError
from setup.progress import Progress

SUITE = "trixie"
NAME = "debian:trixie-slim"
DEMO_NODE_NAME = "debian:bookworm-slim"  # what vLLM's image for the demo is made from (apptainer/pins)
LOCK = "setup/locks/base-images.lock"
LOCK_HEAD = (
    "# The base images' digests, as a registry gave them to `make renew`: NAME sha256:DIGEST. Without one the tag is "
    "pulled.\n"
)
PULL_TIMEOUT_S = 300
INSPECTED = '{"digests": {{json .RepoDigests}}, "layers": {{json .RootFS.Layers}}}'


@dataclass(frozen=True)
class BaseImage:
    """A base image on this machine. `digest`: the registry's, empty for one that was made here."""

    name: str
    digest: str
    layers: str

    @property
    def record(self) -> str:
        """What an image's label says of its base."""
        return self.digest or f"made here, layers sha256:{hashlib.sha256(self.layers.encode()).hexdigest()}"


def parse_base(name: str, text: str) -> BaseImage:
    """Parse the output of `docker image inspect` by INSPECTED."""
    found = json.loads(text)
    digests = [digest.partition("@")[2] for digest in found["digests"] or []]
    return BaseImage(name, next(iter(digests), ""), json.dumps(found["layers"]))


def find_base(name: str) -> BaseImage | None:
    """Return the base image that the engine has under this name."""
    text = try_run(["docker", "image", "inspect", "--format", INSPECTED, name])
    return parse_base(name, text) if text else None


def read_digests(root: Path) -> dict[str, str]:
    """Read the lock: name to digest."""
    text = (root / LOCK).read_text(encoding="ascii")
    return dict(re.findall(r"^([a-z0-9./:_-]+) (sha256:[0-9a-f]{64})$", text, re.M))


def render_digests(digests: dict[str, str]) -> str:
    """Render the lock."""
    return LOCK_HEAD + "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))


def ensure_base_image(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> BaseImage:
    """Return the base image, after getting it if necessary.

    One that was pulled by another digest than the lock's is replaced; one that was made here stays. Its layers identify
    it: they are the same for a base made again of the same packages; the image's id, with the time of its making, is
    not.
    """
    known = find_base(name)
    wanted = read_digests(root).get(name)
    if known is not None and (wanted is None or known.digest in (wanted, "")):
        return known
    with progress.step(f"base image {name}") as step:
        step.say("pulled, or made of this machine's own package source")
        _get(progress, root, name, suite)
    found = find_base(name)
    if found is None:
        raise SetupError(f"{name} went away while it was in use; run `make up` again")
    return found


def ensure_chosen_base(name: str) -> BaseImage:
    """Return the base image that the environment names (BOUCHET_BASE_IMAGE), pulled if it is not here.

    CommandFailedError if no registry gives it: another base is never made in its place.
    """
    found = find_base(name)
    if found is None:
        run(["docker", "pull", "--quiet", name])
        found = find_base(name)
    if found is None:
        raise SetupError(f"{name} went away after it was pulled; run `make up` again")
    return found


def ensure_base_source(progress: Progress, root: Path, name: str = NAME, suite: str = SUITE) -> None:
    """Ensure that a registry gives base images, or that mmdebstrap can make them.

    This runs before the parallel steps, because two of them need a base image and apt installs one at a time.
    """
    if shutil.which("mmdebstrap") or find_base(name):
        return
    try:
        run(_argv(root, name, suite))
    except DiskFullError:
        raise
    except CommandFailedError:
        advice = f"no registry gives {name}, and without it nothing can make it; `docker pull {name}` may say why"
        ensure_program(progress, "mmdebstrap", ["mmdebstrap"], advice)


def renew_digests(root: Path, progress: Progress) -> None:
    """Write the digests that a registry gives now; a name that none gives keeps its own."""
    digests = read_digests(root)
    for name in (NAME, DEMO_NODE_NAME):
        with progress.step(f"digest of {name}"):
            pulled = try_run(["docker", "pull", "--quiet", name], timeout_s=PULL_TIMEOUT_S)
            found = find_base(name) if pulled is not None else None
        if found is not None and found.digest:
            digests[name] = found.digest
        else:
            progress.note(f"no registry gives {name}; its entry in {LOCK} stays as it is")
    (root / LOCK).write_text(render_digests(digests), encoding="ascii")


def _get(progress: Progress, root: Path, name: str, suite: str) -> None:
    ensure_base_source(progress, root, name, suite)
    try:
        run(_argv(root, name, suite))
    except DiskFullError:
        raise
    except CommandFailedError as exc:
        raise SetupError(f"no registry gives {name}, and it could not be made here: {exc}") from exc


def _argv(root: Path, name: str, suite: str) -> list[str]:
    return ["bash", str(root / "demo" / "base_image.sh"), name, suite]
