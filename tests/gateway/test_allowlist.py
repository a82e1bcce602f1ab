"""Which programs and paths the allowlist accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.config.job_scripts import COMPLETE_MARKER, load_scripts
from bouchet_core.config.site import Partition, Site, SiteImage, SiteLogin
from bouchet_core.errors import NotAllowedError
from bouchet_gateway.allowlist import _LOGIN_PROGRAMS, Allowlist

REMOTE = Path(__file__).parents[2] / "remote"
ROOT = "~/project/bouchet-llm"
BUNDLE = load_scripts(REMOTE)
SCRIPTS = BUNDLE.folder(ROOT)
SITE = Site(
    name="test",
    login=SiteLogin(host="h"),
    root=ROOT,
    models_dir="/software/models",
    images_dir=f"{ROOT}/images",
    quota_command=("getquota", "-u"),
    setup_lines=("module load apptainer",),
    default_image="x",
    images=(SiteImage(pin="x", vllm="0"),),
    partitions=(Partition(name="gpu", max_walltime="1:00:00"),),
)
ALLOWED = Allowlist(SITE, BUNDLE)
AT_LOGIN = Allowlist(SITE.model_copy(update={"download_on": "login"}), BUNDLE)
SERVE = f"{SCRIPTS}/vllm-serve.sbatch"
DETACH = ["python3", f"{SCRIPTS}/download.py", "detach", f"{ROOT}/jobs/d"]


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
        ["sbatch", "--parsable", "--time=06:00:00", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", f"--output={ROOT}/logs/%j.log", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "--test-only", "--partition=gpu"],
        ["apptainer", "version"],
        ["getent", "passwd", "2003"],
        ["test", "-f", "/software/models/a b/config.json"],
        ["python3", f"{SCRIPTS}/list_models.py", "--anything", ";"],
        ["python3", f"{SCRIPTS}/list_models.py", ROOT, "/software/models"],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models", "org/a.model_1-2"],
        ["python3", f"{ROOT}//remote/./{BUNDLE.digest}/inspect_model.py"],
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
        ["sbatch", "--wra=rm -rf x", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch"],
        ["sbatch", "--parsable"],
        ["sbatch", "evil.sh"],
        ["sbatch", "~/project/bouchet-llm/jobs/evil.sh"],
        ["sbatch", "--output=/home/me/.ssh/authorized_keys", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "--outpu=.ssh/authorized_keys", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "--chdir=..", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "-o/home/me/.ssh/authorized_keys", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "-o", "x", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", SERVE, "/etc/passwd", SCRIPTS],
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
        # only the gateway's own scripts, as they are meant to run
        [SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["bash", f"{SCRIPTS}/node.sh", f"{ROOT}/jobs/a"],
        ["bash", f"{SCRIPTS}/batch.sbatch", "download.py", f"{ROOT}/jobs/a", f"{ROOT}/jobs/a"],
        ["python3", f"{SCRIPTS}/vllm_job.py"],
        ["python3", f"{SCRIPTS}/x.py"],
        ["python3", f"{SCRIPTS}/list_images.py", "remove", "/etc", "x"],
        ["python3", f"{SCRIPTS}/inspect_model.py", "/software/models", "org/name", "~/.ssh"],
        ["python3", f"{SCRIPTS}/remove_model.py", "~", "Documents/thesis"],
        ["python3", f"{SCRIPTS}/remove_model.py", ROOT, "org/name"],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models"],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models", "../name"],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models", "org/.."],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models", "org/name\n"],
        ["python3", f"{SCRIPTS}/remove_model.py", "/software/models", "/home/another"],
        ["scancel", "123\n"],
        ["scancel", "--full\n", "123"],
        ["scontrol", "--oneliner\n", "show", "job"],
        ["python3", f"{ROOT}/remote/0123456789ab/list_models.py"],
        ["python3", f"{SCRIPTS}/download.py", "run", f"{ROOT}/jobs/a", SCRIPTS],
        [*DETACH, SCRIPTS, f"{ROOT}/logs/d.log"],
        ["sbatch", SERVE, f"{ROOT}/jobs/a"],
        ["sbatch", SERVE, f"{ROOT}/jobs/a", f"{ROOT}/jobs/a"],
        ["sbatch", f"{SCRIPTS}/node.sh", f"{ROOT}/jobs/a", SCRIPTS],
        # Slurm writes the job's output there
        ["sbatch", f"--output={SCRIPTS}/node.sh", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["sbatch", "--job-name=remote", f"--output={ROOT}/%x/{BUNDLE.digest}/node.sh", SERVE, f"{ROOT}/a", SCRIPTS],
        ["sbatch", f"--error={ROOT}/remot%%e", SERVE, f"{ROOT}/jobs/a", SCRIPTS],
        ["apptainer", "inspect", f"{ROOT}/images/x.sif"],
        ["sacctmgr", "show", "runawayjobs"],
        ["sacctmgr", "list"],
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
    assert Allowlist(SITE.model_copy(update={"models_dir": "/"}), BUNDLE).allowed_path("/etc") == "/etc"


def test_check_argv_batch_program_on_login_node_follows_the_site() -> None:
    AT_LOGIN.check_argv([*DETACH, SCRIPTS, f"{ROOT}/logs/d.log"])
    for changed in ([f"{ROOT}/jobs/d", f"{ROOT}/logs/d.log"], [SCRIPTS, f"{SCRIPTS}/node.sh"]):
        with pytest.raises(NotAllowedError):
            AT_LOGIN.check_argv([*DETACH, *changed])


def test_login_programs_are_those_of_the_folder() -> None:
    assert {path.name for path in (REMOTE / "login").glob("*.py")} == _LOGIN_PROGRAMS


@pytest.mark.parametrize(
    ("request_text", "allowed"),
    [
        ('{"quota": ["getquota", "-u"]}', True),
        ('{"quota": []}', True),
        ("{}", True),
        ('{"quota": ["bash", "-c", "id"]}', False),
        ('{"quota": ["getquota", "-u"], "quota": ["id"]}', False),
        ("[]", False),
        ("x", False),
    ],
)
def test_check_argv_probe_runs_only_the_quota_command_of_the_site(request_text: str, allowed: bool) -> None:
    argv = ["python3", f"{SCRIPTS}/probe_login_node.py"]
    if allowed:
        ALLOWED.check_argv(argv, request_text)
        return
    with pytest.raises(NotAllowedError):
        ALLOWED.check_argv(argv, request_text)


@pytest.mark.parametrize(
    ("request_text", "allowed"),
    [
        (f'{{"root": "{ROOT}", "keep_days": 1}}', True),
        ('{"root": "/home/another"}', False),
        (f'{{"root": "{ROOT}/jobs/.."}}', False),
        ('{"root": ["x"]}', False),
        ("{}", False),
        ("[" * 100_000, False),
    ],
)
def test_check_argv_cleanup_removes_below_the_root_of_the_site_only(request_text: str, allowed: bool) -> None:
    argv = ["python3", f"{SCRIPTS}/cleanup.py"]
    if allowed:
        ALLOWED.check_argv(argv, request_text)
        return
    with pytest.raises(NotAllowedError):
        ALLOWED.check_argv(argv, request_text)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        *((f"{SCRIPTS}/{name}", content) for name, content in BUNDLE.staged_files().items()),
        (f"{ROOT}/logs/README", b"text"),
        (f"{ROOT}/jobs/a/vllm.args", b"--x"),
        (f"{ROOT}/jobs/a/setup.sh", b"module load apptainer\n"),
        (f"{ROOT}/jobs/a/spec.json", b'{"apptainer": "apptainer", "quota_command": ["getquota", "-u"]}'),
    ],
)
def test_writable_path_accepts_what_the_worker_uploads(path: str, data: bytes) -> None:
    assert ALLOWED.writable_path(path, data) == path


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (f"{SCRIPTS}/node.sh", b"id"),
        (f"{SCRIPTS}/x.sh", b"id"),
        (f"{SCRIPTS}/{COMPLETE_MARKER}", b"id"),
        (f"{ROOT}/remote/0123456789ab/node.sh", BUNDLE.files["node.sh"]),
        (f"{ROOT}/remote", b""),
        (ROOT, b""),
        (f"{ROOT}/x", b""),
        (f"{ROOT}/jobs", b""),
        (f"{ROOT}/images/x.sif", b""),
        ("/software/models/x/modeling.py", b""),
        (f"{ROOT}/jobs/a/setup.sh", b"id\n"),
        (f"{ROOT}/jobs/a/spec.json", b'{"apptainer": "/tmp/evil"}'),
        (f"{ROOT}/jobs/a/spec.json", b'{"quota_command": ["id"]}'),
        (f"{ROOT}/jobs/a/spec.json", b"\xff"),
        (f"{ROOT}/jobs/a/spec.json", b"[" * 100_000),
    ],
)
def test_writable_path_refuses_what_could_run_on_the_login_node(path: str, data: bytes) -> None:
    with pytest.raises(NotAllowedError):
        ALLOWED.writable_path(path, data)


def test_is_repeatable_only_for_reading_commands() -> None:
    assert ALLOWED.is_repeatable(["squeue"])
    assert not ALLOWED.is_repeatable(["sbatch"])
    assert not ALLOWED.is_repeatable(["scancel", "1"])
    assert not ALLOWED.is_repeatable(["bash", "x"])
