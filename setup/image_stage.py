"""`make stage PIN=... DIR=...`: what an image build needs, for clusters whose nodes have no network.

DIR gets wheels/ (every wheel of the pin's lock, its hash checked) and base.tar, the distribution below them.
"""

from __future__ import annotations

from pathlib import Path

from demo import wheels
from demo.commands import ProvisionError
from demo.staging import parse_flat_yaml
from demo.wheels import WheelTarget

from .command import run
from .docker.arm64_images import check_emulator
from .docker.engine import ask_cpu
from .errors import SetupError
from .progress import Progress

PINS = Path("apptainer") / "pins"
MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
# before the names of Debian's images for one CPU type, which do not take the place of this machine's own
PREFIXES = {"linux/amd64": "amd64/", "linux/arm64": "arm64v8/"}


def stage_pin(root: Path, pin: str, folder: str, progress: Progress) -> None:
    """Stage the pin into the folder; what is there already is kept. Raises SetupError with the next step."""
    if not pin or not folder:
        raise SetupError("name a pin and a folder: `bouchet image stage PIN DIR`")
    source, into = root / PINS / pin, Path(folder).expanduser().absolute()
    lock, facts = source / "requirements.lock", pin_facts(root, pin)
    if not lock.is_file():
        raise SetupError(f"{pin} has no lock: it is an OCI image, staged as docs/images.md says")
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SetupError(f"cannot make {into}: {exc.strerror}") from exc
    with progress.step(f"wheels of {pin}") as step:
        step.say("some gigabytes")
        try:
            wheels.download(lock, into / "wheels", target_of(facts))
        except ProvisionError as exc:
            raise SetupError(str(exc)) from exc
        count = len(list((into / "wheels").glob("*.whl")))
        step.title = f"wheels of {pin}: {count}, every hash as in the lock"
    with progress.step("base distribution") as step:
        make_base(root, pin, facts, into / "base.tar")
        step.title = "base distribution: base.tar"
    progress.note(f"copy {into} to the cluster, then `bouchet image build {pin} --from DIR`, DIR as it is there")


def pin_facts(root: Path, pin: str) -> dict[str, str]:
    """Return what pin.yaml says. Raises SetupError for an unknown pin, with those that there are."""
    path = root / PINS / pin / "pin.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.parent.name for found in (root / PINS).glob("*/pin.yaml")))
        raise SetupError(f"there is no pin {pin}; there are: {known}")
    return parse_flat_yaml(path.read_text(encoding="utf-8"))


def target_of(facts: dict[str, str]) -> WheelTarget:
    """Return what the pin's wheels have to run on."""
    return WheelTarget(facts["python"], facts["glibc"], MACHINES[facts["platform"]])


def is_foreign(facts: dict[str, str], cpu: str) -> bool:
    """Return whether the pin is for another CPU type than the engine's."""
    return MACHINES[facts["platform"]] != cpu


def distribution(facts: dict[str, str], cpu: str) -> str:
    """Return the name of the distribution's image on this machine, for an engine of that CPU type."""
    return (PREFIXES[facts["platform"]] if is_foreign(facts, cpu) else "") + facts["base"]


def base_argv(root: Path, pin: str, facts: dict[str, str], cpu: str = "x86_64") -> list[str]:
    """Return the command that builds the base, with the pin's packages."""
    recipe = root / "apptainer" / "base.Dockerfile"
    arguments = {"BASE": distribution(facts, cpu), **({"PACKAGES": facts["packages"]} if facts.get("packages") else {})}
    argv = ["docker", "build", "--quiet", "--platform", facts["platform"], "--tag", base_tag(pin)]
    argv += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    return [*argv, "--file", str(recipe), str(recipe.parent)]


def base_tag(pin: str) -> str:
    """Return the name of the image that base.tar is saved from."""
    return f"bouchet/vllm-base:{pin}"


def foreign_argv(root: Path, facts: dict[str, str], cpu: str) -> list[str]:
    """Return the command that gets the distribution for another CPU type than the engine's."""
    suite = facts["base"].partition(":")[2].removesuffix("-slim")
    script = str(root / "demo" / "base_image.sh")
    return ["bash", script, distribution(facts, cpu), suite, facts["platform"].partition("/")[2]]


def make_base(root: Path, pin: str, facts: dict[str, str], archive: Path) -> None:
    """Build the base and save it, readable for all; an archive that is there is kept."""
    if archive.is_file():
        return
    cpu = ask_cpu()
    if is_foreign(facts, cpu):
        check_emulator(MACHINES[facts["platform"]])
        run(foreign_argv(root, facts, cpu))
    run(base_argv(root, pin, facts, cpu))
    partial = archive.with_suffix(".partial")
    run(["docker", "image", "save", "--output", str(partial), base_tag(pin)])
    partial.chmod(0o644)
    partial.replace(archive)
