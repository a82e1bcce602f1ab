"""The gateway's messages to people, compared with tests/contracts/golden/messages/gateway.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncssh
import pytest
from bouchet_core import errors
from bouchet_core.config.job_scripts import ScriptBundle
from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from bouchet_core.tunnel import HostKey, TunnelState
from bouchet_gateway.allowlist import Allowlist
from bouchet_gateway.ssh.connect import node_refusal_message
from bouchet_gateway.ssh.failures import mapped_errors
from bouchet_gateway.ssh.host_keys import RefusedHostKey, TrustedHosts
from bouchet_gateway.ssh.private_key import PrivateKeyFile, agent_problem
from bouchet_gateway.ssh.prompts import PromptBroker

from .login_node import LoginNode, PromptScript
from .running import post, started, wait_for_prompt, wait_for_state
from .test_allowlist import ROOT, SITE

GOLDEN = Path(__file__).parents[1] / "contracts" / "golden" / "messages" / "gateway.txt"
LOGIN = "cannot log in to bouchet"
FAILURES: tuple[Exception, ...] = (
    ConnectionRefusedError(111, "Connection refused"),
    asyncssh.PermissionDenied("Permission denied for user netid on host bouchet"),
    asyncssh.DisconnectError(2, "Too many authentication failures"),
    asyncssh.KeyExchangeFailed("No matching host key algorithm found"),
    asyncssh.ConfigParseError("config line 2: Invalid integer value: many"),
    asyncssh.ConnectionLost("Connection lost"),
)
BUNDLE = ScriptBundle({"x.sbatch": b"", "x.py": b""})
FOLDER = BUNDLE.folder(ROOT)
SCRIPT = f"{FOLDER}/x.sbatch"
FILES = (
    (f"{FOLDER}/x.py", b"id"),
    (f"{ROOT}/images/x.sif", b""),
    (f"{ROOT}/jobs/a/setup.sh", b"id"),
    (f"{ROOT}/jobs/a/spec.json", b"id"),
    (f"{ROOT}/jobs/a/spec.json", b"[]"),
    (f"{ROOT}/jobs/a/spec.json", b'{"apptainer": "id"}'),
)
COMMANDS: tuple[Sequence[str], ...] = (
    [],
    ["rm", "-rf", "/"],
    ["squeue\0"],
    ["bash"],
    ["scancel", "-u", "me"],
    ["scontrol", "update", "jobid=5"],
    ["apptainer", "exec", "x.sif"],
    ["test", "-f"],
    ["getent", "passwd", "root"],
    ["sbatch", "-o", "x"],
    ["sbatch", "--parsable"],
    ["sbatch", "--output=/etc/x", SCRIPT, FOLDER],
    ["sbatch", f"--output={FOLDER}/x.py", SCRIPT, FOLDER],
    ["sbatch", SCRIPT, "a/../b", FOLDER],
    ["sbatch", SCRIPT, "a/b", FOLDER],
    ["sbatch", SCRIPT, f"{ROOT}/jobs/a", f"{ROOT}/jobs/a"],
    ["sbatch", f"{FOLDER}/x.py"],
    ["sbatch", f"{ROOT}/remote/x.sbatch"],
    ["python3", f"{FOLDER}/x.py"],
    ["sacctmgr", "show", "runawayjobs"],
)


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(BouchetError) as caught:
        call()
    return f"{caught.value.kind}: {caught.value}"


def raise_mapped(failure: Exception) -> None:
    with mapped_errors(LOGIN):
        raise failure


def login_messages() -> Iterator[str]:
    for failure in FAILURES:
        yield raised(lambda failure=failure: raise_mapped(failure))  # type: ignore[misc]
    yield node_refusal_message(
        f"{LOGIN}: closed", "Welcome\nAccess denied by pam_slurm_adopt: you have no active jobs\n"
    )
    yield node_refusal_message(f"{LOGIN}: closed", "")


def host_key_messages(folder: Path) -> Iterator[str]:
    hosts = TrustedHosts(folder / "known_hosts")
    yield hosts.explain("Host key is not trusted")
    yield raised(lambda: hosts.trust("SHA256:x"))
    yield raised(lambda: hosts.forget("other"))
    for changed in (False, True):
        shown = HostKey(place="login", algorithm="ssh-ed25519", fingerprint="SHA256:abc", changed=changed)
        hosts.refused = RefusedHostKey(shown, "ssh-ed25519 AAAA")
        yield hosts.explain("Host key is not trusted")
        yield raised(lambda: hosts.trust("SHA256:x"))
    hosts.path.write_text("login ssh-ed25519 AAAA\n")
    yield hosts.explain("Host key is not trusted")
    hosts.refused = RefusedHostKey(shown.model_copy(update={"changed": False}), "ssh-ed25519 AAAA")
    (folder / "file").touch()
    hosts.path = folder / "file" / "known_hosts"
    yield raised(lambda: hosts.trust("SHA256:abc")).replace(str(folder), "FOLDER")


def prompt_messages(folder: Path) -> Iterator[str]:
    broker = PromptBroker(0.01)
    yield raised(lambda: broker.answer("x", []))
    yield raised(lambda: asyncio.run(broker.ask("", [("Passcode: ", False)])))
    (folder / "notes").write_text("no key\n")
    for name in ("notes", "absent"):
        yield raised(lambda name=name: asyncio.run(PrivateKeyFile(folder / name, broker).key()))  # type: ignore[misc]
    yield asyncio.run(agent_problem(str(folder / "no-agent")))


def allowlist_messages() -> Iterator[str]:
    allowlist = Allowlist(SITE, BUNDLE)
    for argv in COMMANDS:
        yield raised(lambda argv=argv: allowlist.check_argv(argv))  # type: ignore[misc]
    for path in ("/etc/passwd", "x", f"{ROOT}/../x"):
        yield raised(lambda path=path: allowlist.allowed_path(path))  # type: ignore[misc]
    for path, data in FILES:
        yield raised(lambda path=path, data=data: allowlist.writable_path(path, data))  # type: ignore[misc]


def test_messages_are_the_golden_ones(tmp_path: Path) -> None:
    sections = {
        "logins": login_messages(),
        "host keys": host_key_messages(tmp_path),
        "prompts and keys": prompt_messages(tmp_path),
        "allowlist": allowlist_messages(),
    }
    text = "\n".join("\n".join([f"# {title}", *messages, ""]) for title, messages in sections.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


async def test_human_needed_message_names_host_and_command(login_node: LoginNode, store: Store) -> None:
    login_node.script = PromptScript([("Duo", [("Passcode: ", False)])], lambda answers: True)
    async with started(login_node, store) as gateway:
        await wait_for_prompt(gateway)
        waiting = (await post(gateway, "/v1/run", argv=["squeue"])).json()
        assert waiting["kind"] == errors.HumanNeededError.kind
        assert waiting["detail"] == "127.0.0.1 is waiting for an answer: `bouchet tunnel`"
        login_node.cut()
        status = await wait_for_state(gateway, TunnelState.NEEDS_HUMAN)
        assert status.detail
