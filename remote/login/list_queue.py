"""Prints the user's queue on the login node: `python3 list_queue.py FORMAT`. Python 3.6.

Prints what `squeue --format=FORMAT` does, whose last field is the job's name, but only bouchet-llm's jobs. The worker
uses it where the whole queue is longer than the gateway returns: some users have tens of thousands of jobs.
"""

import os
import subprocess
import sys

JOB_PREFIX = "bouchet-"


def print_own_jobs(row_format: str) -> int:
    """Print the rows of our jobs as they arrive; return squeue's exit status."""
    fields = row_format.count("|")
    argv = ["squeue", "--me", "--noheader", "--format=" + row_format]
    environment = dict(os.environ, SLURM_TIME_FORMAT="%s")
    squeue = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)
    assert squeue.stdout is not None
    for line in squeue.stdout:
        row = line.decode("utf-8", "replace")
        if row.split("|", fields)[-1].strip().startswith(JOB_PREFIX):
            sys.stdout.buffer.write(line)
    return squeue.wait()


if __name__ == "__main__":
    sys.exit(print_own_jobs(sys.argv[1]))
