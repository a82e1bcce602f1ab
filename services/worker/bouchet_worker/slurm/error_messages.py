"""Error texts of Slurm's programs: what they mean for a submission, and what the user can do about them. Pure."""

from __future__ import annotations

import re

# Slurm's errors by what they mean for a submission (slurm_errno.c of 22.05 to 25.11, and the C library's words that
# sbatch prints for its connection). What is in neither table is final.
#
# The connection broke on the way: the job may exist all the same, so it is looked for by its name.
_MAY_HAVE_SUBMITTED = re.compile(
    r"timed out|unable to contact slurm|zero bytes were transmitted|unexpected (message|missing socket)"
    r"|communication connection failure|communication shutdown failure|message (send|receive) failure"
    r"|transport endpoint|connection (reset by peer|refused|aborted|rejected|forced closed)|broken pipe"
    r"|software caused connection abort|no route to host|network is (unreachable|down)|host is down"
    r"|network dropped connection|delayed socket error|(read|write) would block|file descriptor"
    r"|operation (now|already) in progress|shutting down"
    r"|header lengths are longer than data|insane message length|interrupted system call|input/output error",
    re.I,
)
# Slurm took nothing, and the same command may succeed later.
_BUSY = re.compile(
    r"temporarily un|resource temporarily unavailable|slurmctld.*(starting|standby)|in standby mode"
    r"|try again|please retry|retry later|is reloading|communications backoff|is busy"
    r"|presently disabled|submissions disabled"
    r"|MaxJobCount limit|nodes are busy|nodes busy|queue full|locked by another sibling"
    r"|munge|authentication (error|credential|plugin)|auth(entication)? cred|protocol authentication"
    r"|unpack credential|generating job credential|token generation failed"
    r"|unable to connect to database|database connection|slurmdbd|connection to slurm_?dbd"
    r"|error writing script/environment to file|no space left on device|cannot allocate memory"
    r"|no buffer space|too many open files"
    r"|name resolution|unable to resolve|host ?name lookup failure|failed to fetch config|rate limit"
    r"|being reconfigured|configuration (file|source)|slurm\.conf.*(retrying|no such file)|lookup failed",
    re.I,
)
# of what a site prints at a submission; some print a page
MAX_MESSAGE_CHARACTERS = 600
_UNKNOWN_JOB = re.compile(r"invalid job id", re.I)

# Which part of Slurm does not answer, by the error of the program or of the gateway that ended it.
_NO_ANSWER: tuple[tuple[str, str], ...] = (
    (r"^sacct did not end within|slurmdbd", "accounting"),
    (r"^(squeue|scontrol|sbatch|scancel|sinfo) did not end within", "controller"),
    (
        r"[Uu]nable to contact slurm controller|slurm_load_\w+ error: (Socket timed out|Zero Bytes)",
        "controller",
    ),
)
_PROGRAMS = r"(sbatch|squeue|sacct|scontrol|scancel|sinfo|sacctmgr|sshare|sprio)"
# `env` of GNU and BusyBox, and shells that run the program themselves
_NOT_ON_PATH = re.compile(
    r"(?:^|[\s:])(?:env|timeout|exec|\w*sh)?:? ?(?:line \d+: )?(?:failed to run command )?"
    r"['`\u2018]?" + _PROGRAMS + r"['\u2019]?: "
    r"(?:No such file or directory|(?:command |inaccessible or )?not found)"
    # zsh, fish and Nushell name the program last
    rf"|(?:command not found|unknown command):? ['`\u2018]?{_PROGRAMS}\b|command ['`]?{_PROGRAMS}['`]? not found"
    rf"|\"{_PROGRAMS}\": executable file not found",
    re.I,
)
_OUTAGE_ADVICE = "running jobs continue and nothing is cancelled; if it lasts, contact the site's support"

# (pattern, suggestion); the first match wins. Messages of slurm_errno.c, Slurm 22.05 to 25.11.
_REFUSALS: tuple[tuple[str, str], ...] = (
    (r"MaxSubmit|job submit limit", "cancel one of your jobs there, or use another --partition"),
    (
        r"Invalid generic resource|[Ii]nvalid Trackable RESource|invalid gres",
        "the partition has no such GPUs: check gpu_types in the site file",
    ),
    (
        r"node configuration is not available",
        "no node of the partition has all of these resources: use fewer --gpus, or another --partition",
    ),
    (
        r"More processors requested than permitted|CPU count (per node )?can not be satisfied",
        "use fewer --gpus, or another --partition",
    ),
    (r"Memory (required|specification)", "memory_per_gpu_gib in the site file is more than the nodes have"),
    (r"[Ii]nvalid feature specification", "no node has this feature: use another --constraint, or none"),
    (r"[Ii]nvalid qos|QOS.*(not permitted|permission)", "use another --qos, or none"),
    (r"[Ii]nvalid account|account/partition", "use another --account (`sacctmgr show assoc user=$USER` lists yours)"),
    (r"[Ii]nvalid partition", "the cluster has no such partition: correct the site file, or use another --partition"),
    (r"group not permitted|[Aa]ccess/permission denied", "you may not use this partition: use another --partition"),
    (r"time limit is invalid|time limit.*exceed", "use a shorter --time"),
    (r"node count specification|Node count", "use fewer --nodes"),
    (
        r"Required partition not available|[Pp]artition.*(down|DOWN|inactive)",
        "the partition is switched off: use another --partition, or wait",
    ),
    (
        r"accounting/QOS policy|QOS|Assoc",
        "a limit of your account is reached: use a smaller or shorter job, or another --partition",
    ),
)


def describe_refusal(stderr: str) -> str:
    """Return one line for an sbatch that failed: Slurm's error, then a suggestion where there is one."""
    error = _plain_error(stderr)
    advice = next((advice for pattern, advice in _REFUSALS if re.search(pattern, error)), "")
    return f"Slurm rejected the job: {error}" + (f"; {advice}" if advice else "")


def _plain_error(stderr: str) -> str:
    prefix = r"^(sbatch: )?(error: )?(Batch job submission failed: )?"
    lines = [re.sub(prefix, "", line.strip()) for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "sbatch printed no error"


def describe_messages(stderr: str) -> str:
    """Return in one line what sbatch printed beside a job's id: messages of a job_submit plugin, and warnings."""
    lines = [re.sub(r"^sbatch: (?:lua: )?", "", line.strip()) for line in stderr.splitlines()]
    shown = "; ".join(dict.fromkeys(line for line in lines if re.search(r"\w", line)))
    return "".join(character for character in shown if character.isprintable())[:MAX_MESSAGE_CHARACTERS]


def may_have_submitted(stderr: str) -> bool:
    """Return whether a failed sbatch may have created a job all the same."""
    return bool(_MAY_HAVE_SUBMITTED.search(stderr))


def is_busy(stderr: str) -> bool:
    """Return whether the same command may succeed a little later."""
    return bool(_BUSY.search(stderr))


def is_unknown_job(stderr: str) -> bool:
    """Return whether scontrol failed because slurmctld does not know the job, and not because it did not answer."""
    return bool(_UNKNOWN_JOB.search(stderr))


def explain_outage(error: str) -> str:
    """Return the error with what it means where Slurm does not answer or is not found; any other error unchanged."""
    missing = _NOT_ON_PATH.search(error)
    if missing:
        program = next(filter(None, missing.groups()))
        return (
            f"{program} is not on the PATH of commands over ssh: set `path` in the site file to its directory there "
            f"(`command -v {program}` prints it in a login shell), then run `make up` ({error})"
        )
    part = next((part for pattern, part in _NO_ANSWER if re.search(pattern, error)), None)
    return f"Slurm's {part} does not answer ({error}): {_OUTAGE_ADVICE}" if part else error
