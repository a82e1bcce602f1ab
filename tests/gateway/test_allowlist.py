"""Which programs and paths the allowlist accepts."""

from __future__ import annotations

import pytest
from bouchet_core.errors import NotAllowedError
from bouchet_gateway.allowlist import Allowlist

ALLOWED = Allowlist(("~/project/bouchet-llm", "/software/models"), "~/project/bouchet-llm/remote")


@pytest.mark.parametrize(
    "line",
    [
        ["squeue", "--me", "-h", "-o", "%i|%T|%r"],
        ["sacct", "-j", "1,2", "--parsable2"],
        ["sinfo", "-h"],
        ["scontrol", "--oneliner", "show", "job", "5"],
        ["sacctmgr", "-nP", "show", "assoc"],
        ["scancel", "123"],
        ["scancel", "--batch", "--signal=USR1", "123"],
        ["sbatch", "--parsable", "--time=06:00:00", "~/project/bouchet-llm/remote/serve.sh", "~/project/bouchet-llm/j"],
        ["sbatch", "--output=~/project/bouchet-llm/logs/%j.log", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "--test-only", "--partition=gpu"],
        ["apptainer", "version"],
        ["getent", "passwd", "2003"],
        ["test", "-f", "/software/models/a b/config.json"],
        ["~/project/bouchet-llm/remote/probe", "--json"],
        ["python3", "~/project/bouchet-llm/remote/tools/x.py", "--anything", ";"],
        ["bash", "~/project/bouchet-llm//remote/./x.sh"],
    ],
)
def test_check_argv_accepts_what_we_use(line: list[str]) -> None:
    ALLOWED.check_argv(line)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["rm", "-rf", "x"],
        ["/usr/bin/squeue"],
        ["./squeue"],
        ["getent", "passwd"],
        ["getent", "passwd", "root"],
        ["getent", "shadow", "0"],
        ["squeue\0"],
        ["env", "squeue"],
        ["scontrol", "shutdown"],
        ["scontrol", "--oneliner"],
        ["scontrol", "update", "show"],
        ["sacctmgr", "delete", "user", "x"],
        ["scancel"],
        ["scancel", "-u", "me"],
        ["scancel", "--name=x", "5"],
        ["scancel", "--state=PENDING"],
        ["scancel", "all"],
        ["sbatch", "--wrap=rm -rf x"],
        ["sbatch", "--wrap", "rm"],
        ["sbatch", "--wra=rm -rf x", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch"],
        ["sbatch", "--parsable"],
        ["sbatch", "evil.sh"],
        ["sbatch", "~/project/bouchet-llm/jobs/evil.sh"],
        ["sbatch", "--output=/home/me/.ssh/authorized_keys", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "--outpu=.ssh/authorized_keys", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "--chdir=..", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "-o/home/me/.ssh/authorized_keys", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "-o", "x", "~/project/bouchet-llm/remote/serve.sh"],
        ["sbatch", "~/project/bouchet-llm/remote/serve.sh", "/etc/passwd"],
        # what follows an option with a value is the command
        ["scontrol", "-M", "show", "update", "jobid=5", "priority=0"],
        ["scontrol", "--clusters", "show", "shutdown"],
        ["scontrol", "show", "--clusters=x", "job"],
        ["sacctmgr", "--immediate", "show", "x"],
        ["sbatch", "/tmp/evil.sh"],
        ["sbatch", "~/evil.sh"],
        ["apptainer", "exec", "x.sif", "sh"],
        ["apptainer"],
        ["test", "-f", "/etc/shadow"],
        ["test", "-f", "/software/models/x", "-o", "-f", "/etc/shadow"],
        ["bash"],
        ["bash", "-c", "id"],
        ["python3", "-c", "1"],
        ["bash", "~/project/bouchet-llm/jobs/x.sh"],
        ["bash", "~/project/bouchet-llm/remote/../jobs/x.sh"],
        ["~/project/bouchet-llm/remote"],
        ["~/project/bouchet-llm/remote/"],
        ["~/project/bouchet-llm/remote-not/x"],
    ],
)
def test_check_argv_refuses_everything_else(line: list[str]) -> None:
    with pytest.raises(NotAllowedError):
        ALLOWED.check_argv(line)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~/project/bouchet-llm", "~/project/bouchet-llm"),
        ("~/project/bouchet-llm/", "~/project/bouchet-llm"),
        ("~/project//bouchet-llm/./jobs/x", "~/project/bouchet-llm/jobs/x"),
        ("//software/models/x", "/software/models/x"),
        ("/software/models/..hidden", "/software/models/..hidden"),
    ],
)
def test_allowed_path_in_root_is_normalized(path: str, expected: str) -> None:
    assert ALLOWED.allowed_path(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "~",
        "/",
        "x",
        "~/",
        "~root/x",
        "~/project",
        "/software",
        "/software/modelsX",
        "/software/models/../x",
        "/a\0b",
    ],
)
def test_allowed_path_outside_roots_is_refused(path: str) -> None:
    with pytest.raises(NotAllowedError):
        ALLOWED.allowed_path(path)


def test_allowed_path_root_slash_includes_everything() -> None:
    assert Allowlist(("/",), "/x").allowed_path("/etc") == "/etc"


def test_is_repeatable_only_for_reading_commands() -> None:
    assert ALLOWED.is_repeatable(["squeue"])
    assert not ALLOWED.is_repeatable(["sbatch"])
    assert not ALLOWED.is_repeatable(["scancel", "1"])
    assert not ALLOWED.is_repeatable(["bash", "x"])
