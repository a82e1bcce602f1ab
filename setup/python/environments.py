"""Python environments made from hashed locks, and the tools that tests and checks need.

A changed lock makes a new environment beside the old one; a link points to the newest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from setup.command import OnLine, can_install, ensure_program, install, run
from setup.errors import CommandFailedError, DiskFullError, SetupError, ToolMissingError
from setup.progress import Progress

STAMP = ".made-from"
# of the digest, in a folder's name
DIGEST_LENGTH = 12
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes", "--no-deps")


def ensure_environment(
    progress: Progress, target: Path, locks: Sequence[Path], finish: Callable[[Path], None] | None = None
) -> Path:
    """Make a virtual environment at `target` with exactly the content of `locks`, and return its python.

    Locks are installed one after another without build isolation, so an earlier one may contain what a later one
    builds with. `finish` gets the new environment's python (for our own packages).
    """
    wanted = digest_of(locks)
    python = target / "bin" / "python"
    if _is_made(target, wanted):
        return python
    place = target.with_name(f"{target.name}-{wanted[:DIGEST_LENGTH]}")
    with progress.step(f"Python environment {target.name}") as step, _sole_maker(target, step.say):
        # another command may have made it meanwhile
        if _is_made(target, wanted):
            return python
        _ensure_venv_module(progress)
        _make(place, locks, step.say)
        if finish is not None:
            finish(place / "bin" / "python")
        (place / STAMP).write_text(wanted)
        point_link_to(place, target)
    return python


def _is_made(target: Path, wanted: str) -> bool:
    stamp = target / STAMP
    return (target / "bin" / "python").exists() and stamp.is_file() and stamp.read_text() == wanted


@contextmanager
def _sole_maker(target: Path, say: OnLine) -> Iterator[None]:
    """Wait until no other command makes this environment: two terminals may be the first to call `bouchet`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command makes it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest_of(files: Sequence[Path]) -> str:
    """Compute a digest of this Python and the files' contents."""
    summary = hashlib.sha256(sys.version.encode())
    for file in files:
        summary.update(file.read_bytes())
    return summary.hexdigest()


def point_link_to(place: Path, target: Path) -> None:
    """Make `target` a link to the folder `place` beside it, atomically. The previous folder stays for its users."""
    before = target.with_name(f"{target.name}-{'0' * DIGEST_LENGTH}")
    if target.is_symlink():
        before = target.parent / target.readlink()
    elif target.exists():
        target.rename(before)
    link = target.with_name(f"{target.name}.next")
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(target)
    ours = re.compile(rf"{re.escape(target.name)}-[0-9a-f]{{{DIGEST_LENGTH}}}")
    for other in target.parent.iterdir():
        if ours.fullmatch(other.name) and other not in (place, before):
            shutil.rmtree(other, ignore_errors=True)


def _make(place: Path, locks: Sequence[Path], say: OnLine) -> None:
    """Make the environment where it stays: a venv has its own path in its scripts. The stamp marks it complete."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(place, with_pip=True, symlinks=os.name != "nt")
        for lock in locks:
            say(lock.name)
            run([str(place / "bin" / "python"), *PIP, "--no-build-isolation", "-r", str(lock)])
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _ensure_venv_module(progress: Progress) -> None:
    """Install the venv module if needed. Debian packages ensurepip apart, so `import venv` proves nothing."""
    try:
        run([sys.executable, "-c", "import ensurepip, venv"])
    except CommandFailedError as exc:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not can_install():
            raise ToolMissingError(
                "Python's venv module", f"install {package} (`sudo apt-get install {package}`)"
            ) from exc
        install(progress, "Python's venv module", [package])


PACKAGES = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "services/notifier", "cli")
PROGRAMS = {"redis-server": ["redis-server"], "shellcheck": ["shellcheck"], "ssh-keygen": ["openssh-client"]}

# the login shells of clusters: tests compare what each makes of a command line
LOGIN_SHELLS = ("tcsh", "fish", "zsh", "ksh")

# Servers that tests of the ledger, of metrics and of docs/lab.md run: their programs may be beside the PATH
SERVERS = {"postgres": "postgresql", "promtool": "prometheus", "nginx": "nginx-light"}
# ... and tests of logins with tickets; the last one is what the gateway's image has
SERVERS |= {"krb5kdc": "krb5-kdc", "kadmin.local": "krb5-admin-server", "kinit": "krb5-user"}
GSSAPI, GSSAPI_PACKAGE = Path("/usr/lib/python3/dist-packages/gssapi"), "python3-gssapi"
POSTGRES = Path("/usr/lib/postgresql")

# schemathesis, which wants another Python library's version here and there than the tests do
FUZZER = Path(".cache") / "tools" / "schemathesis"
# what the stack's tests drive beside Claude Code; `make conformance` installs more
CODEX = Path("tests") / "clients" / "codex"
SYSTEMD = Path("/run/systemd/system")
SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"

# Puts the platform package's native binary in place. Called by name: newer versions of npm run no install scripts.
CLAUDE_INSTALLER = "node_modules/@anthropic-ai/claude-code/install.cjs"


def ensure_tools(root: Path, progress: Progress, *, fast: bool) -> None:
    """Install what `make test` and `make bench` (or, with `fast`, `make test-fast`) need beyond a Docker engine."""
    link = partial(link_packages, root)
    link(ensure_environment(progress, root / ".venv", [root / "tests" / "requirements.lock"], link))
    for program, packages in PROGRAMS.items():
        ensure_program(progress, program, packages)
    ensure_servers(progress)
    if fast:
        return
    ensure_environment(progress, root / FUZZER, [root / "setup" / "locks" / "schemathesis.lock"])
    ensure_claude(root, progress)
    ensure_node_packages(root, progress, root / CODEX, "Codex for the tests (npm)")
    ensure_browser(root, progress)
    ensure_sshd(progress)
    ensure_login_shells(progress)


def ensure_login_shells(progress: Progress) -> None:
    """Install the login shells that tests run; without the rights to, only say so: these tests are skipped then."""
    missing = [shell for shell in LOGIN_SHELLS if shutil.which(shell) is None]
    if missing and can_install():
        install(progress, "login shells", missing)
    elif missing:
        names = " ".join(missing)
        progress.note(f"tests of login shells also need: {names} (`sudo apt-get install {names}`)")


def ensure_servers(progress: Progress) -> None:
    """Install PostgreSQL, nginx and others, which tests start themselves; without the rights to, only say so."""
    missing = [package for program, package in SERVERS.items() if not _has_server(program)]
    missing += [] if GSSAPI.exists() else [GSSAPI_PACKAGE]
    if missing and can_install() and not SYSTEMD.exists():
        install(progress, "servers that tests run", missing)
    elif missing:
        names = " ".join(missing)
        progress.note(
            f"tests of the ledger, of metrics and of the lab page also need: {names} (`sudo apt-get install {names}`)"
        )


def _has_server(program: str) -> bool:
    return shutil.which(program, path=SBIN) is not None or any(POSTGRES.glob(f"*/bin/{program}"))


def ensure_sshd(progress: Progress) -> None:
    """Install the OpenSSH server that `make bench` compares the gateway with.

    On a system that would start it, and so open port 22 to everybody, and without the rights, only say so.
    """
    if shutil.which("sshd", path=SBIN) is not None:
        return
    if can_install() and not SYSTEMD.exists():
        install(progress, "OpenSSH's server", ["openssh-server"])
    else:
        progress.note("`make bench` also needs OpenSSH's server: `sudo apt-get install openssh-server`")


def ensure_cli(root: Path, progress: Progress) -> None:
    """Make the environment of ./bouchet. ./bouchet compares the copy of the lock, which is written last."""
    lock = root / "cli" / "requirements.lock"
    link = partial(link_packages, root, packages=("core", "cli"))
    python = ensure_environment(progress, root / ".cache" / "cli", [lock], link)
    link(python)
    shutil.copyfile(lock, python.parent.parent / "lock")


def link_packages(root: Path, python: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write a .pth file that makes our packages importable from the repository: an editable install, only faster."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = python.parent.parent / "lib" / version / "site-packages"
    text = "".join(f"{root / package}\n" for package in packages)
    target = site / "bouchet-packages.pth"
    if not target.is_file() or target.read_text() != text:
        target.write_text(text)


def ensure_browser(root: Path, progress: Progress) -> None:
    """Install the Chromium that tests of the dashboard drive, and axe-core, which they ask about its pages."""
    ensure_program(progress, "chromium", ["chromium"])
    install_node_packages(progress, root / "tests" / "browser", "axe-core for the tests (npm)", ())


def ensure_claude(root: Path, progress: Progress) -> None:
    """Install the Claude Code that tests/claude/package-lock.json pins."""
    folder = root / "tests" / "claude"
    install_node_packages(progress, folder, "Claude Code for the tests (npm)", (CLAUDE_INSTALLER,))


def ensure_node_packages(root: Path, progress: Progress, source: Path, title: str) -> Path:
    """Install what a folder's package-lock.json pins below `.cache/tools`, and return the folder `node_modules`."""
    folder = root / ".cache" / "tools" / f"node-{source.name}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(source / name, folder / name)
    aliases = json.loads((source / "package.json").read_text())["dependencies"]
    # native programs are put in place by a script of their package
    installers = [f"node_modules/{name}/install.cjs" for name in aliases]
    install_node_packages(progress, folder, title, installers)
    return folder / "node_modules"


def install_node_packages(progress: Progress, folder: Path, title: str, installers: Sequence[str]) -> None:
    """Install exactly what a folder's package-lock.json pins, and run the installers that the packages have."""
    lock, installed = folder / "package-lock.json", folder / "node_modules" / STAMP
    if installed.is_file() and installed.read_text() == lock.read_text():
        return
    ensure_program(progress, "npm", ["npm", "nodejs"])
    with progress.step(title) as step:
        try:
            run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, on_line=step.say)
            for installer in installers:
                if (folder / installer).is_file():
                    run(["node", installer], cwd=folder)
        except DiskFullError:
            raise
        except CommandFailedError as exc:
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            raise SetupError(f"npm could not install {title}: {exc}") from exc
    installed.write_text(lock.read_text())
