"""What is behind a program of Slurm that got no answer: its own words, and what a person may do about it. Pure."""

from __future__ import annotations

import re

# which part of Slurm was silent, by what the program, or the gateway that gave it up, says of it
_SILENT: tuple[tuple[str, str], ...] = (
    (r"^sacct did not end within|slurmdbd", "accounting"),
    (r"^(squeue|scontrol|sbatch|scancel|sinfo) did not end within", "controller"),
    (r"[Uu]nable to contact slurm controller|slurm_load_\w+ error: (Socket timed out|Zero Bytes)", "controller"),
)
_ADVICE = "nothing is ended because of it, and jobs go on; wait, and if it lasts ask the site's support"


def unanswered(said: str) -> str:
    """The same with what it means, where Slurm is what did not answer; other words as they are."""
    silent = next((part for pattern, part in _SILENT if re.search(pattern, said)), None)
    return f"Slurm's {silent} does not answer ({said}): {_ADVICE}" if silent else said
