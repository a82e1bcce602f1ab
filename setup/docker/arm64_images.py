"""`make arm64-images`: every image of the stack and of the demo, built for arm64 and started, on Linux for x86-64.

An emulator that the kernel knows (qemu's user emulation) runs what is for arm64. One image is built at a time: emulated
programs are slow, and would take all cores. Nothing of a running stack is touched: the images have a tag of their own.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from setup.command import run
from setup.errors import CommandFailedError, DiskFullError, SetupError, ToolMissingError
from setup.progress import Progress

from .base_images import SUITE, BaseImage, find_base
from .engine import Compose, ensure_engine, find_compose, with_files
from .images import DEMO_INPUTS, SERVICE_INPUTS, image_names
from .stack import METRICS_PROFILE, Stack, ca_bundle

PLATFORM = "linux/arm64"
# as Debian's images for arm64 are called
BASE = "arm64v8/debian:trixie-slim"
TAG = "arm64"
PROJECT = "bouchet-arm64"
HANDLERS = Path("/proc/sys/fs/binfmt_misc")
# of a 64-bit ELF header in hexadecimal: the first bytes, and the machine
ELF, AARCH64 = "7f454c4602", "b700"
# qemu is slow, not endless
START_TIMEOUT_S = 600

# Compose service -> what is run in its image; a service's own module imports all that it is made of
_SERVICES = {name: ("python", "-c", f"import bouchet_{name}.__main__") for name in SERVICE_INPUTS}
STARTED: Mapping[str, tuple[str, ...]] = {
    **_SERVICES,
    "redis": ("redis-server", "--version"),
    "prometheus": ("prometheus", "--version"),
    "demo-keys": ("sh", "-c", "slurmctld -V && slurmd -V && sinfo --version && apptainer --version && ssh -V"),
}


@dataclass(frozen=True)
class Handler:
    """A kind of program that the kernel gives to an interpreter, as in a file of binfmt_misc."""

    enabled: bool
    interpreter: str
    flags: str
    magic: str

    @property
    def is_for_arm64(self) -> bool:
        """Whether it is for 64-bit programs of arm64."""
        return self.enabled and self.magic.startswith(ELF) and self.magic[36:40] == AARCH64


@dataclass(frozen=True)
class ImageResult:
    """What came of one image. `problem` is empty where it was built and its program ran."""

    service: str
    built_s: float
    started_s: float
    problem: str = ""


def parse_handler(text: str) -> Handler:
    """Parse a file of binfmt_misc."""
    words = dict(re.findall(r"(?m)^(\w+):? (.*)$", text))
    enabled = text.startswith("enabled")
    return Handler(enabled, words.get("interpreter", ""), words.get("flags", ""), words.get("magic", ""))


def emulator_problem(handlers: Iterable[Handler]) -> str:
    """Return why no container for arm64 can run with these handlers, and what to do; empty if one can."""
    found = [handler for handler in handlers if handler.is_for_arm64]
    if not found:
        return (
            "this kernel runs no programs for arm64: install qemu's user emulation, which registers itself (on Debian "
            "and Ubuntu: `sudo apt-get install qemu-user-static arch-test`); where no systemd runs also, as root, "
            f"`mount -t binfmt_misc none {HANDLERS}` and "
            f"`cat /usr/lib/binfmt.d/qemu-aarch64.conf > {HANDLERS}/register`"
        )
    if not [handler for handler in found if "F" in handler.flags]:
        return (
            f"{found[0].interpreter} is registered for arm64 without the flag F, so containers do not find it: "
            "install qemu-user-static, whose registration has it"
        )
    return ""


def read_handlers(folder: Path = HANDLERS) -> list[Handler]:
    """Read what the kernel has registered; empty where binfmt_misc is not mounted."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.name not in ("register", "status")]
    return [parse_handler(path.read_text(errors="replace")) for path in files]


def check_machine() -> None:
    """Check that there is something to emulate, and what emulates it; SetupError says what is missing."""
    if platform.machine() in ("arm64", "aarch64"):
        raise SetupError("this machine's own CPU is for arm64: `make up` builds the same images without an emulator")
    if sys.platform != "linux":
        raise SetupError("images are built for another CPU type on Linux only")
    check_emulator("aarch64")


def check_emulator(cpu: str) -> None:
    """Check that containers for that CPU type run here, as far as that is known; ToolMissingError says what is missing.

    The engines of macOS bring an emulator of their own.
    """
    problem = emulator_problem(read_handlers()) if cpu == "aarch64" and sys.platform == "linux" else ""
    if problem:
        raise ToolMissingError("an emulator for arm64", problem)


def build_arm64(stack: Stack, progress: Progress, environ: Mapping[str, str], chosen: Iterable[str] = ()) -> None:
    """Build and start the chosen services' images, all if none is named, and print a table; SetupError if one fails."""
    services = check_services(chosen)
    check_machine()
    ensure_engine(progress)
    base = ensure_arm64_base(stack.root, progress)
    compose = arm64_compose(stack, progress, environ, base)
    names = image_names(compose)
    results = [try_image(compose, service, names[service], progress) for service in services]
    print(render_results(results))
    progress.note(f"the images are bouchet/*:{TAG}; `docker image rm` removes them")
    failed = [result for result in results if result.problem]
    if failed:
        raise SetupError("\n".join(f"{result.service}: {result.problem}" for result in failed))


def check_services(chosen: Iterable[str]) -> list[str]:
    """Return the services whose images are built; SetupError for an unknown name."""
    known = [*SERVICE_INPUTS, *DEMO_INPUTS]
    wanted = list(chosen) or known
    for name in wanted:
        if name not in known:
            raise SetupError(f"there is no image of {name}; there are: {', '.join(known)}")
    return wanted


def ensure_arm64_base(root: Path, progress: Progress) -> BaseImage:
    """Return the base image for arm64, pulled or made here."""
    with progress.step(f"base image {BASE}") as step:
        script = str(root / "demo" / "base_image.sh")
        run(["bash", script, BASE, SUITE, PLATFORM.rsplit("/", 1)[1]], on_line=step.say)
    found = find_base(BASE)
    if found is None:
        raise SetupError(f"{BASE} went away while it was in use; run `make arm64-images` again")
    return found


def arm64_compose(stack: Stack, progress: Progress, environ: Mapping[str, str], base: BaseImage) -> Compose:
    """Return Compose for images of arm64; nothing is started with it."""
    env = {
        "COMPOSE_PROFILES": METRICS_PROFILE,
        "DOCKER_DEFAULT_PLATFORM": PLATFORM,
        "BOUCHET_BASE_IMAGE": BASE,
        "BOUCHET_BASE_DIGEST": base.record,
        "BOUCHET_IMAGE_TAG": TAG,
        "BUILD_CA_BUNDLE": str(ca_bundle(environ)),
    }
    own = Stack(stack.root, PROJECT, stack.env_file, {})
    files = [stack.root / "compose.yaml", stack.root / "demo" / "compose.yaml"]
    return with_files(find_compose(progress, stack), own, files, env)


def try_image(compose: Compose, service: str, name: str, progress: Progress) -> ImageResult:
    """Build one image, and run its program in it."""
    began = built = time.monotonic()
    try:
        with progress.step(f"{service} for arm64") as step:
            compose.run("--progress", "plain", "build", service, on_line=lambda line: step.say(line[-60:]))
            built = time.monotonic()
            run(start_argv(name, STARTED[service]), on_line=step.say)
    except DiskFullError:
        raise
    except CommandFailedError as exc:
        return ImageResult(service, built - began, time.monotonic() - built, str(exc))
    return ImageResult(service, built - began, time.monotonic() - built)


def start_argv(image: str, program: Iterable[str]) -> list[str]:
    """Return the command that runs a program in an image, without a network and for a limited time."""
    own = ["docker", "run", "--rm", "--network", "none", "--platform", PLATFORM, "--entrypoint", "timeout"]
    return [*own, image, str(START_TIMEOUT_S), *program]


def render_results(results: Iterable[ImageResult]) -> str:
    """Render the table of images; the first one's time has that of the layers that all share."""
    lines = [f"{'image':<12} {'built in':>9} {'started in':>11}  result"]
    for result in results:
        outcome = "failed" if result.problem else "ok"
        lines.append(f"{result.service:<12} {result.built_s:>7.0f} s {result.started_s:>9.0f} s  {outcome}")
    return "\n".join(lines)
