"""Error texts of Slurm's programs."""

from __future__ import annotations

import pytest
from bouchet_worker.slurm.error_messages import (
    describe_messages,
    describe_refusal,
    explain_outage,
    is_busy,
    is_unknown_job,
    may_have_submitted,
)

FAILED = "sbatch: error: Batch job submission failed: "


# as sbatch prints it: 24.11 from a running cluster, older ones from their slurm_errno.c
@pytest.mark.parametrize(
    ("stderr", "part"),
    [
        (
            f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy "
            "(job submit limit, user's size and/or time limits)\n",
            "cancel one of your jobs",
        ),
        (f"{FAILED}Requested node configuration is not available\n", "fewer --gpus"),
        ("sbatch: error: Invalid generic resource (gres) specification\n", "no such GPUs"),
        (f"{FAILED}Invalid qos specification\n", "--qos"),
        (f"{FAILED}Invalid account or account/partition combination specified\n", "--account"),
        (f"{FAILED}Invalid feature specification\n", "--constraint"),
        ("sbatch: error: invalid partition specified: nope\n", "--partition"),
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", "shorter --time"),
        ("sbatch: error: Memory specification can not be satisfied\n", "memory_per_gpu_gib"),
    ],
)
def test_describe_refusal_repeats_slurm_and_suggests_an_option(stderr: str, part: str) -> None:
    text = describe_refusal(stderr)
    assert part in text and text.startswith("Slurm rejected the job: ")
    assert "\n" not in text and "sbatch: error" not in text


def test_describe_refusal_of_unknown_error_repeats_it() -> None:
    assert describe_refusal("sbatch: error: The moon is full\n") == "Slurm rejected the job: The moon is full"
    assert describe_refusal("") == "Slurm rejected the job: sbatch printed no error"


@pytest.mark.parametrize(
    ("stderr", "unsure"),
    [
        (f"{FAILED}Socket timed out on send/recv operation", True),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", True),
        (f"{FAILED}Communication connection failure", True),
        (f"{FAILED}Message receive failure", True),
        (f"{FAILED}Message send failure", True),
        (f"{FAILED}Transport endpoint is not connected", True),
        (f"{FAILED}Connection timed out", True),
        (f"{FAILED}Connection reset by peer", True),
        (f"{FAILED}Broken pipe", True),
        (f"{FAILED}Zero Bytes were transmitted or received", True),
        (f"{FAILED}Operation now in progress", True),
        (f"{FAILED}Slurmctld is shutting down", True),
        (f"{FAILED}Process is shutting down and closing all communications", True),
        (f"{FAILED}Unexpected missing socket error", True),
        (f"{FAILED}Unable to process incoming file descriptor", True),
        (f"{FAILED}Read would block", True),
        (f"{FAILED}Connection rejected by handler", True),
        (f"{FAILED}Connection forced closed by quiesce timeout", True),
        (f"{FAILED}Connection timed out writing", True),
        (f"{FAILED}Kernel reported delayed socket error after successful write(), client side likely closed", True),
        (f"{FAILED}Cannot send after transport endpoint shutdown", True),
        (f"{FAILED}Network dropped connection on reset", True),
        (f"{FAILED}Invalid partition name specified", False),
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", False),
    ],
)
def test_may_have_submitted_is_true_after_lost_contact(stderr: str, unsure: bool) -> None:
    assert may_have_submitted(stderr) is unsure


@pytest.mark.parametrize(
    "words",
    [
        "Resource temporarily unavailable",
        "Slurm backup controller in standby mode",
        "Unable to create job record, try again",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Communications backoff: slurmctld is busy; client should retry with exponential backoff",
        "Job can not be altered now, try again later",
        "Requested operation is presently disabled",
        "Protocol authentication error",
        "Invalid authentication credential",
        'Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
        "Unable to connect to database",
        "I/O error writing script/environment to file",
        "Rate limit exceeded, please retry momentarily",
        "Controller is in standby mode, try a different controller",
        "System submissions disabled",
        "MaxJobCount limit reached",
        "Requested nodes are busy",
        "Error generating job credential",
        "Authentication credential expired",
        "Cannot unpack credential",
        "Token Generation failed.",
        "Unable to resolve user ID to user name",
        "Job locked by another sibling",
        "Too many open files",
        "No buffer space available",
    ],
)
def test_is_busy_is_true_for_a_temporary_error(words: str) -> None:
    assert is_busy(f"{FAILED}{words}")


# the errors of slurm_errno.c that the same request would meet again
@pytest.mark.parametrize(
    "words",
    [
        "Invalid account",
        "Invalid qos specification",
        "Access/permission denied",
        "Unspecified error",
        "Incompatible versions of client and server code",
        "Invalid partition name specified",
        "User's group not permitted to use this partition",
        "Requested partition configuration not available now",
        "Requested node configuration is not available",
        "More processors requested than permitted",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Time limit specification required, but not provided",
        "Access denied to requested reservation",
        "Required node not available (down, drained or reserved)",
        "Partition in DOWN state",
        "Invalid generic resource (gres) specification",
        "Invalid Trackable RESource (TRES) specification",
        "Requested GRES option unsupported by configured SelectType plugin",
        "Requested operation not supported on this system",
        "Lua function execution failed due to runtime error",
        "Memory required by task is not available",
        "Pathname of a file, directory or other parameter too long",
    ],
)
def test_is_busy_is_false_for_a_final_error(words: str) -> None:
    assert not is_busy(f"{FAILED}{words}") and not may_have_submitted(f"{FAILED}{words}")


@pytest.mark.parametrize(
    "error",
    [
        "squeue ended with status 127: env: 'squeue': No such file or directory",
        "sbatch ended with status 127: env: \u2018sbatch\u2019: No such file or directory",
        "sacct ended with status 127: bash: line 1: sacct: command not found",
        "sinfo ended with status 127: sh: 1: exec: sinfo: not found",
    ],
)
def test_explain_outage_of_a_program_off_the_path_names_the_setting(error: str) -> None:
    text = explain_outage(error)
    assert text.startswith(f"{error.split()[0]} is not on the PATH") and "`path` in the site file" in text


def test_is_unknown_job_is_false_for_lost_contact() -> None:
    assert is_unknown_job("slurm_load_jobs error: Invalid job id specified")
    assert not is_unknown_job("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        ("squeue did not end within 20 s and was killed", "controller"),
        ("scontrol did not end within 20 s", "controller"),
        ("squeue ended with status 1: slurm_load_jobs error: Unable to contact slurm controller", "controller"),
        ("sbatch ended with status 1: sbatch: error: Unable to contact slurm controller", "controller"),
        ("sacct did not end within 20 s and was killed", "accounting"),
        ("sacct ended with status 1: sacct: error: slurm_persist_conn_open: to slurmdbd", "accounting"),
    ],
)
def test_explain_outage_names_the_silent_part(error: str, part: str) -> None:
    text = explain_outage(error)
    assert text.startswith(f"Slurm's {part} does not answer ({error}): ") and "support" in text


@pytest.mark.parametrize(
    "error", ["the tunnel is down", "probe_login_node.py did not end within 60 s", "cat did not end within 9 s"]
)
def test_explain_outage_of_other_error_returns_it(error: str) -> None:
    assert explain_outage(error) == error


def test_describe_messages_are_the_plugins_lines_once_and_printable() -> None:
    stderr = (
        "sbatch: lua: Moved to gpu_h200.\nsbatch: ----------\nsbatch: lua: Moved to gpu_h200.\nsbatch: \x1b[1mAsk us!\n"
    )
    assert describe_messages(stderr) == "Moved to gpu_h200.; [1mAsk us!"
    assert describe_messages("") == "" and len(describe_messages("long " * 1000)) == 600


@pytest.mark.parametrize(
    ("error", "program"),
    [
        ("zsh:1: command not found: sbatch", "sbatch"),
        ("fish: Unknown command: squeue", "squeue"),
        ("Error: nu::shell::external_command: Command `squeue` not found", "squeue"),
        ('exec: "sinfo": executable file not found in $PATH', "sinfo"),
        ("fish: Unknown command 'sacct'", "sacct"),
        ("nu::shell::external_command: command scancel not found", "scancel"),
        ("mksh: scontrol: inaccessible or not found", "scontrol"),
        ("ksh: sinfo: not found [No such file or directory]", "sinfo"),
    ],
)
def test_other_shells_name_the_missing_program_elsewhere(error: str, program: str) -> None:
    assert explain_outage(error).startswith(f"{program} is not on the PATH")


@pytest.mark.parametrize(
    "stderr",
    [
        f"{FAILED}Slurmctld is being reconfigured",
        "sbatch: error: auth_p_get_host: Lookup failed for 10.0.0.5",
        "sbatch: fatal: Could not establish a configuration source",
        "sbatch: error: s_p_parse_file: unable to status file /etc/slurm/slurm.conf: No such file or directory, "
        "retrying in 1sec up to 60sec",
    ],
)
def test_configuration_that_is_away_for_a_moment_is_tried_again(stderr: str) -> None:
    assert is_busy(stderr) and not may_have_submitted(stderr)
