"""How ssh reaches a login node, asked of the real ssh: hops, names, keys, known hosts, and what is refused in words."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from setup.docker.stack import Stack
from setup.errors import ClusterLoginError
from setup.files.env_file import EnvSettings
from setup.files.ssh_config import RESOLVED_FILE, make_ask, resolve_hosts, stage_login
from setup.files.ssh_jumps import ProxyCommandJump, jump_arguments, parse_proxy_command, split_port
from setup.progress import Progress

ME = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
BOB = "HostName l.example.org\n User bob\n"
SETTINGS = EnvSettings({"BOUCHET_UID": str(os.getuid()), "BOUCHET_GID": str(os.getgid()), "BOUCHET_HOST": "bouchet"})

HOME = "/home/bob"


def resolve(folder: Path, config: str, **more: str) -> list[dict[str, Any]]:
    """Return the hops to `bouchet` by this config. more: texts of files beside it; FOLDER in them is their folder."""
    for name, text in {"config": config, **more}.items():
        (folder / name.replace("__", " ")).write_text(text.replace("FOLDER", str(folder)))
    hops: list[dict[str, Any]] = resolve_hosts(["bouchet"], make_ask(folder / "config"), lambda _: None)["bouchet"]
    return hops


def places(hops: list[dict[str, Any]]) -> list[str]:
    return [f"{hop['user']}@{hop['host']}:{hop['port']}" for hop in hops]


DIRECT = ["bob@l.example.org:22"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("Host bouchet\n HostName l.example.org # the login node\n User bob\n", DIRECT),
        (f"Host bouchet\n {BOB} Port ssh\n", DIRECT),
        (f"Host bouchet\n {BOB} ProxyCommand nc %h %p\nHost *\n ProxyJump gate\n", DIRECT),
        (f"Host bouchet\n {BOB} ProxyCommand none\nHost *\n ProxyJump gate\n", DIRECT),
        (f"Host bouchet\n {BOB} ProxyJump none\n", DIRECT),
        ("Host bouchet\n HostName l.example.org\n", [f"{ME}@l.example.org:22"]),
        ("Host bouchet\n HostName l.example.org\n User CORP\\alice\n", ["CORP\\alice@l.example.org:22"]),
        ("Host bouchet\n HostName %h.example.org\n User bob\n Port 2222\n", ["bob@bouchet.example.org:2222"]),
        (
            f"Host bouchet\n {BOB}Match final host l.example.org\n ProxyJump gate\n",
            [f"{ME}@gate:22", *DIRECT],
        ),
        (f"Host bouchet\n {BOB} ProxyJump jim@[::1]:9\n", ["jim@::1:9", *DIRECT]),
        (f"Host bouchet\n {BOB} ProxyJump ssh://jim@gate:99\n", ["jim@gate:99", *DIRECT]),
        # the options of `ssh -J user@host:port` outrank those of the jump host's own block
        (
            f"Host bouchet\n {BOB} ProxyJump jim@gate\nHost gate\n HostName g.example.org\n User joe\n Port 7\n",
            ["jim@g.example.org:7", *DIRECT],
        ),
        # only the first of several jump hosts uses its own ProxyJump
        (
            f"Host bouchet\n {BOB} ProxyJump one,two\nHost one\n User a\n ProxyJump zero\n"
            "Host two\n User b\n ProxyJump never\nHost zero\n User z\n",
            ["z@zero:22", "a@one:22", "b@two:22", *DIRECT],
        ),
        (
            f"Host bouchet\n {BOB} ProxyCommand ssh -q -W %h:%p gate.example.org\nHost gate.*\n User jim\n",
            ["jim@gate.example.org:22", *DIRECT],
        ),
        (
            f"Host bouchet\n {BOB} ProxyCommand ssh -l jim -p 2222 gate nc -w 5 %h %p 2>/dev/null\n",
            ["jim@gate:2222", *DIRECT],
        ),
    ],
)
def test_resolve_hosts_leads_where_ssh_goes(tmp_path: Path, config: str, expected: list[str]) -> None:
    assert places(resolve(tmp_path, config)) == expected


@pytest.mark.parametrize("line", ["Include=FOLDER/more", 'Include "FOLDER/my hpc"', "Include FOLDER/m*e"])
def test_resolve_hosts_reads_included_files(tmp_path: Path, line: str) -> None:
    text = f"Host bouchet\n {BOB}"
    assert places(resolve(tmp_path, f"{line}\n", more=text, my__hpc=text)) == DIRECT


def test_resolve_hosts_reads_times_with_units(tmp_path: Path) -> None:
    (hop,) = resolve(tmp_path, f"Host *\n ServerAliveInterval 1m\nHost bouchet\n {BOB}")
    assert hop["server_alive_interval_s"] == 60


def test_resolve_hosts_joins_known_hosts_of_any_name(tmp_path: Path) -> None:
    config = f'Host bouchet\n {BOB} UserKnownHostsFile "FOLDER/my hosts" FOLDER/none FOLDER/b\n'
    (hop,) = resolve(tmp_path, config, my__hosts="h1 ssh-ed25519 AAAA", b="h2 ssh-ed25519 BBBB\n")
    assert hop["known_hosts"].startswith("h1 ssh-ed25519 AAAA\nh2 ssh-ed25519 BBBB\n")


def test_resolve_hosts_passes_on_only_chosen_algorithms(tmp_path: Path) -> None:
    (hop,) = resolve(tmp_path, f"Host bouchet\n {BOB}")
    assert hop["algorithms"] == {}
    (hop,) = resolve(tmp_path, f"Host bouchet\n {BOB} HostKeyAlgorithms ssh-ed25519\n")
    assert hop["algorithms"] == {"host_key": ["ssh-ed25519"]}


def test_resolve_hosts_address_of_proxy_command_keeps_the_hosts_key(tmp_path: Path) -> None:
    gate, hop = resolve(tmp_path, f"Host bouchet\n {BOB} ProxyCommand ssh -W 10.0.0.7:2022 gate\n")
    assert (gate["host"], hop["address"], hop["host_key_alias"]) == ("gate", ["10.0.0.7", 2022], None)
    # the names in known_hosts are made from these
    assert (hop["host"], hop["port"]) == ("l.example.org", 22)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("Match localnetwork 10.0.0.0/8 nonsense\n ProxyJump none\n", "ssh cannot use its configuration for bouchet"),
        ("Host bouchet\n HostNmae x\n", "Bad configuration option: hostnmae"),
        ("Host bouchet\n ProxyCommand cloudflared access ssh --hostname %h\n", "the program cloudflared is not in"),
        ("Host bouchet\n ProxyCommand nc -X connect -x proxy:3128 %h %p\n", "`nc -X` goes through a proxy"),
        ("Host bouchet\n ProxyCommand ssh gate 'module load x; nc %h %p'\n", "no plain connection"),
        ("Host bouchet\n ProxyCommand a | b\n", "it is more than one command"),
        ("Host bouchet\n ProxyCommand ssh -W %h:%p bouchet\n", "more than 8 jump hosts"),
    ],
)
def test_resolve_hosts_says_what_it_cannot_carry_over(tmp_path: Path, config: str, words: str) -> None:
    with pytest.raises(ClusterLoginError) as caught:
        resolve(tmp_path, config)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ssh gate -W %h:%p", ("gate",)),
        ("/usr/bin/ssh -qxaW %h:%p gate", ("gate",)),
        ("exec ssh -o 'StrictHostKeyChecking no' -W [%h]:%p jim@gate", ("-o", "StrictHostKeyChecking no", "jim@gate")),
        ("ssh -F /x/config -i ~/.ssh/k -W %h:%p gate", ("-F", "/x/config", "-i", f"{HOME}/.ssh/k", "gate")),
        # what the person's shell makes of it
        ('ssh -F "$HOME/c" -o IdentityFile=~/k -W %h:%p $GATE', ("-F", f"{HOME}/c", "-o", "IdentityFile=~/k", "gate")),
        ("bash -c 'ssh -F ~/c -W %h:%p ${GATE}'", ("-F", f"{HOME}/c", "gate")),
        ("sh -c 'ssh -W %h:%p gate 2> /dev/null'", ("gate",)),
        ("ssh gate exec nc %h %p", ("gate",)),
        ("ssh gate 'nc -q0 -w 3 %h %p 2>/dev/null'", ("gate",)),
        ("ssh -T gate -- netcat %h %p", ("gate",)),
        ("ssh -J one two -W %h:%p", ("-J", "one", "two")),
        ("nc %h %p", None),
        ("/usr/bin/ncat --idle-timeout 5 %h %p", None),
        ("nc -w 10 %h %p", None),
        ("socat - TCP:%h:%p", None),
    ],
)
def test_parse_proxy_command_understands_jumps(
    monkeypatch: pytest.MonkeyPatch, command: str, arguments: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setenv("GATE", "gate")
    place = ("l.example.org", 2222)
    assert parse_proxy_command(command, place, "bouchet", "bob") == ProxyCommandJump(arguments, place)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", ("h", "")),
        ("h:7", ("h", "7")),
        ("[::1]:9", ("::1", "9")),
        ("[fe80::1%eth0]", ("fe80::1%eth0", "")),
        ("::1", ("::1", "")),
    ],
)
def test_split_port_reads_addresses(text: str, expected: tuple[str, str]) -> None:
    assert split_port(text) == expected


def test_jump_arguments_keep_at_signs_of_users() -> None:
    assert jump_arguments("one,me@corp@gate:7") == ["-J", "one", "-l", "me@corp", "-p", "7", "gate"]


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Return a stack in an empty folder."""
    (tmp_path / ".secrets").mkdir(mode=0o700)
    return Stack(tmp_path, "bouchet", tmp_path / ".env", {})


def test_stage_login_writes_one_file_and_no_private_key(tmp_path: Path, stack: Stack) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "key"], check=True)
    public = (tmp_path / "key.pub").read_text().split()[1]
    (tmp_path / "key.pub").unlink()
    (tmp_path / "config").write_text(f"Host bouchet\n {BOB} IdentityFile {tmp_path}/key\n CertificateFile /none\n")
    stack.ssh_dir.mkdir()
    (stack.ssh_dir / "config").write_text("of an earlier version\n")
    stderr = io.StringIO()
    with Progress(stderr) as progress:
        stage_login(stack, SETTINGS, progress, tmp_path / "config")
    assert [path.name for path in stack.ssh_dir.iterdir()] == [RESOLVED_FILE]
    text = (stack.ssh_dir / RESOLVED_FILE).read_text()
    (identity,) = json.loads(text)["hosts"]["bouchet"][0]["identities"]
    # its public half is at the head of the encrypted key
    assert identity["public"] == f"ssh-ed25519 {public}"
    assert "PRIVATE" not in text and "the certificate /none" in stderr.getvalue()


def test_stage_login_without_ssh_copies_the_folder(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host bouchet\n")
    stderr = io.StringIO()
    with Progress(stderr) as progress:
        stage_login(stack, SETTINGS, progress)
    assert [path.name for path in stack.ssh_dir.iterdir()] == ["config"]
    assert "no ssh" in stderr.getvalue()
