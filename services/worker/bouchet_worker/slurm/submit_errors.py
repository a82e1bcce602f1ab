"""What sbatch says when it takes no job, with what to do about it. Slurm's own words come first, whole."""

from __future__ import annotations

import re

# (pattern, what to do); the first that matches wins. Messages of slurm_errno.c, 22.05 to 25.11.
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"MaxSubmit|job submit limit",
        "it takes no further job of yours for now: cancel one, or name another --partition",
    ),
    (
        r"Invalid generic resource|[Ii]nvalid Trackable RESource|invalid gres",
        "there are no such GPUs: see gpu_types in the site file",
    ),
    (
        r"node configuration is not available",
        "no nodes there have all this together: fewer --gpus, or another --partition",
    ),
    (
        r"More processors requested than permitted|CPU count (per node )?can not be satisfied",
        "fewer --gpus, or another --partition",
    ),
    (r"Memory (required|specification)", "memory_per_gpu_gib of the site file asks for more than there is"),
    (r"[Ii]nvalid feature specification", "the nodes have no such feature: another --constraint, or none"),
    (r"[Ii]nvalid qos|QOS.*(not permitted|permission)", "name another --qos, or none"),
    (r"[Ii]nvalid account|account/partition", "name another --account (`sacctmgr show assoc user=$USER` lists yours)"),
    (r"[Ii]nvalid partition", "the cluster has no such partition: correct the site file, or name another --partition"),
    (r"group not permitted|[Aa]ccess/permission denied", "you may not use this partition: name another --partition"),
    (r"time limit is invalid|time limit.*exceed", "a shorter --time"),
    (r"node count specification|Node count", "fewer --nodes"),
    (
        r"Required partition not available|partition.*(down|inactive)",
        "it is switched off for now: name another --partition",
    ),
    (
        r"accounting/QOS policy|QOS|Assoc",
        "a limit of your account is reached: a smaller or shorter job, or another --partition",
    ),
)


def refusal_in_words(stderr: str) -> str:
    """One line: what sbatch said, then what would help where that is known."""
    said = _said(stderr)
    advice = next((words for pattern, words in _ADVICE if re.search(pattern, said)), "")
    return f"Slurm refused it: {said}" + (f"; {advice}" if advice else "")


def _said(stderr: str) -> str:
    plain = [
        re.sub(r"^(sbatch: )?(error: )?(Batch job submission failed: )?", "", line.strip())
        for line in stderr.splitlines()
    ]
    return "; ".join(dict.fromkeys(line for line in plain if line)) or "it printed no error"
