"""`bouchet setup` where something is wrong: each is a sentence with what to do, and the next run goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bouchet_cli.client.env_edit import read_values
from bouchet_cli.guide.directory import directory_problem
from bouchet_cli.guide.private_key import has_passphrase

from tests.cli.harness import Bouchet, Done, script

ANSWERS = ("--cluster", "yale", "--user", "me", "--yes")
PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def _a_key(tmp_path: Path) -> None:
    make_key(tmp_path / "id", PASSPHRASE)


def make_key(path: Path, passphrase: str, *more: str) -> Path:
    """Make a key pair as a person does."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path), *more]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return path


def ssh_fails(folder: Path, message: str, status: int = 255) -> None:
    """Let a login fail with what ssh prints; its configuration can still be asked for."""
    ssh = folder / "bin" / "ssh"
    before = ssh.read_text()
    login = before.index("printf")
    ssh.write_text(f"{before[:login]}printf '%s\\n' \"{message}\" >&2\nexit {status}\n")


def settings(folder: Path) -> dict[str, str]:
    return read_values(folder / "own.env")


def reached_make_up(done: Done) -> bool:
    return done.status == 1 and "`make up` failed" in done.err


def test_two_groups_without_a_terminal_name_the_option(person: Bouchet, tmp_path: Path) -> None:
    done = person("setup", *ANSWERS)
    assert done.status == 2 and "--project-dir" in done.err
    assert "BOUCHET_PROJECT_DIR" not in settings(tmp_path)


def test_two_groups_are_a_choice_and_a_wrong_number_is_asked_again(person: Bouchet, tmp_path: Path) -> None:
    with person.terminal("setup", *ANSWERS) as tty:
        tty.until(f"1. {tmp_path}/project_pi_ab12/")
        tty.until(f"2. {tmp_path}/project_pi_cd34/")
        tty.until("your home)")
        tty.type("3\n")
        tty.until("there is no number 3; type one from 1 to 2")
        tty.type("\n")
        tty.until("your home)")
        tty.type("1\n")
        status, rest = tty.rest()
    assert status == 1 and "`make up` failed" in rest
    assert settings(tmp_path)["BOUCHET_PROJECT_DIR"].startswith(f"{tmp_path}/project_pi_ab12/")


def test_end_of_input_at_a_question_ends_it_as_ctrl_c_does(person: Bouchet) -> None:
    with person.terminal("setup", *ANSWERS) as tty:
        tty.until("your home)")
        tty.type("\x04")
        status, rest = tty.rest()
    assert status == 130 and "`bouchet setup` goes on from here" in rest and "Traceback" not in rest


@pytest.mark.parametrize(
    ("message", "is_vpn"),
    [
        ("ssh: connect to host login.yale.example port 22: Connection timed out", True),
        ("ssh: connect to host login.yale.example port 22: Operation timed out", True),
        ("ssh: Could not resolve hostname login.yale.example: Name or service not known", True),
        ("ssh: Could not resolve hostname x: nodename nor servname provided, or not known", True),
        ("ssh: connect to host login.yale.example port 22: No route to host", True),
        ("ssh: connect to host login.yale.example port 22: Network is unreachable", True),
        ("Connection reset by 10.1.2.3 port 22", False),
        ("me@login.yale.example: Permission denied (publickey,keyboard-interactive).", False),
    ],
)
def test_login_that_fails_shows_why_and_names_the_vpn(
    person: Bouchet, tmp_path: Path, message: str, is_vpn: bool
) -> None:
    ssh_fails(tmp_path, message)
    done = person("setup", *ANSWERS)
    assert done.status == 1 and message in done.err and "`ssh yale` shows the same" in done.err
    assert ("VPN" in done.err) is is_vpn
    assert settings(tmp_path)["BOUCHET_HOST"] == "yale"


def test_without_a_key_the_login_decides(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "id").unlink()
    directory = ("--project-dir", f"{tmp_path}/project_pi_ab12")
    done = person("setup", *ANSWERS, *directory)
    assert reached_make_up(done) and "there is no SSH key" in done.err and "run `ssh-keygen" not in done.err
    for methods, wants_key in (("publickey,gssapi-with-mic", True), ("gssapi-with-mic,password", False)):
        ssh_fails(tmp_path, f"me@login.yale.example: Permission denied ({methods}).")
        refused = person("setup", *ANSWERS, *directory)
        assert refused.status == 1 and methods in refused.err
        assert ("run `ssh-keygen -t ed25519`" in refused.err and "`ssh-add`" in refused.err) is wants_key


def test_host_without_slurm_leaves_the_way_to_another_cluster(person: Bouchet, tmp_path: Path) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    text = sbatch.read_text()
    sbatch.unlink()
    done = person("setup", "--cluster", "workstation", "--yes")
    assert done.status == 1 and "it is not the login node of a Slurm cluster" in done.err
    assert "`bouchet setup --cluster NAME`" in done.err
    script(sbatch, text.partition("\n")[2])
    sbatch.write_text(text)
    directory = f"{tmp_path}/project_pi_ab12"
    assert reached_make_up(person("setup", *ANSWERS, "--project-dir", directory))
    assert settings(tmp_path)["BOUCHET_HOST"] == settings(tmp_path)["BOUCHET_SITE"] == "yale"
    # a third cluster does not get the second one's directory
    again = person("setup", "--cluster", "third", "--yes")
    assert again.status == 2 and "--project-dir" in again.err
    assert settings(tmp_path)["BOUCHET_PROJECT_DIR"] == ""


def test_key_without_a_passphrase_is_mentioned_where_the_site_forbids_it(person: Bouchet, tmp_path: Path) -> None:
    directory = ("--project-dir", f"{tmp_path}/project_pi_ab12")
    with_one = person("setup", *ANSWERS, *directory)
    assert reached_make_up(with_one) and "wants a passphrase" not in with_one.err
    (tmp_path / "id").unlink()
    make_key(tmp_path / "id", "")
    without = person("setup", *ANSWERS, *directory)
    assert reached_make_up(without)
    assert f"yale wants a passphrase on every key, and {tmp_path}/id has none" in without.err
    assert f"`ssh-keygen -p -f {tmp_path}/id` sets one" in without.err
    elsewhere = person("setup", "--cluster", "other", "--yes", "--project-dir", f"{tmp_path}/project_pi_cd34")
    assert reached_make_up(elsewhere) and "wants a passphrase" not in elsewhere.err


# OpenSSH writes ed25519 in its own format only
FORMATS = [("rsa", "RFC4716"), ("rsa", "PEM"), ("rsa", "PKCS8"), ("ecdsa", "PEM"), ("ed25519", "RFC4716")]


@pytest.mark.parametrize(("kind", "form"), FORMATS)
def test_passphrase_of_each_format_is_recognized(tmp_path: Path, kind: str, form: str) -> None:
    for name, passphrase in (("with", PASSPHRASE), ("without", "")):
        path = make_key(tmp_path / name, passphrase, "-t", kind, "-m", form)
        assert has_passphrase(path) is bool(passphrase), path.read_text().splitlines()[0]
        assert has_passphrase(path.with_name(f"{name}.pub")) is None


def test_passphrase_of_what_is_no_key(tmp_path: Path) -> None:
    assert has_passphrase(tmp_path / "none") is None
    (tmp_path / "text").write_bytes(b"\xff not a key")
    (tmp_path / "broken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n")
    assert has_passphrase(tmp_path / "text") is has_passphrase(tmp_path / "broken") is None


def test_full_directory_is_found_before_anything_is_put_there(person: Bouchet, tmp_path: Path) -> None:
    directory = tmp_path / "project_pi_ab12"
    full = f"dd: error writing '{directory}/x': Disk quota exceeded"
    script(tmp_path / "bin" / "dd", f"printf '%s\\n' \"{full}\" >&2\nexit 1")
    done = person("setup", *ANSWERS, "--project-dir", f"{directory}/me")
    assert done.status == 1 and f"nothing can be written to {directory} on the cluster: Disk quota exceeded" in done.err
    assert "BOUCHET_PROJECT_DIR" not in settings(tmp_path)
    (tmp_path / "bin" / "dd").unlink()
    assert reached_make_up(person("setup", "--project-dir", f"{directory}/me"))
    assert list(directory.iterdir()) == [], "the check leaves nothing"


@pytest.mark.parametrize("directory", ["/no-such-directory/of/mine", "~/file/below"])
def test_directory_that_cannot_be_made(person: Bouchet, tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("")
    done = person("setup", *ANSWERS, "--project-dir", directory)
    if directory.startswith("/"):
        assert done.status == 1 and f"there is no {directory} on the cluster" in done.err
    else:
        assert reached_make_up(done), "the folder above it is a directory"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("65536 bytes (66 kB, 64 KiB) copied, 0.0001 s\nall", ""),
        ("dd: failed to open '/x/.bouchet-setup-7': Permission denied", "to /x on the cluster: Permission denied"),
        ("sh: 1: cannot create /x/y: Read-only file system", "Read-only file system"),
        ("", "no reason given"),
    ],
)
def test_message_of_the_system_there(written: str, problem: str) -> None:
    assert problem in (found := directory_problem("/x/y", {"above": "/x", "written": written}))
    assert bool(found) is bool(problem)


def test_own_ssh_configuration_survives_a_full_disk(person: Bouchet, tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    before = b"Host old\n" + b"  # comment of 1998: \xe9\n" * 9000
    config.write_bytes(before)
    argv = person.program("setup", *ANSWERS)
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *argv]
    done = subprocess.run(limited, env=dict(person.environment), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"cannot write {config}: File too large" in done.stderr, done.stderr
    assert config.read_bytes() == before and list(config.parent.iterdir()) == [config]
    again = person("setup", *ANSWERS, "--project-dir", f"{tmp_path}/project_pi_ab12")
    assert reached_make_up(again), again.err
    assert config.read_bytes().startswith(b"Host yale\n") and config.read_bytes().endswith(before)


def test_ssh_configuration_that_is_a_link_stays_one(person: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "ssh-config"
    real.write_text("Host old\n")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").symlink_to("../dotfiles/ssh-config")
    assert reached_make_up(person("setup", *ANSWERS, "--project-dir", f"{tmp_path}/project_pi_ab12"))
    assert (tmp_path / ".ssh" / "config").is_symlink() and real.read_text().startswith("Host yale\n")
