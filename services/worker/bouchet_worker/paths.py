"""What bouchet-llm keeps on the cluster: the names of all files.

No other module spells a remote path.

<root>/remote/<digest>/                job scripts, one folder per content
<root>/jobs/<job name>/                the job's own files, mode 0600: spec.json, vllm.args (one argument a line),
                                       setup.sh, key; record.json, from which the deployment's record can be rebuilt.
                                       reconcile/cleanup.py removes them
<root>/logs/<job id>.log               what the job prints, including vLLM's log
<root>/logs/connection-<job id>.json   where its vLLM listens (written by the job)
<root>/logs/end-<job id>.json          why it ended (written by the job)
<root>/cache/<image hash>/<model>-<nodes>x<GPUs>/   compiled kernels in layers, kept by the jobs (kernel_cache.py)
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

SERVE_SCRIPT = "vllm-serve.sbatch"
BATCH_SCRIPT = "batch.sbatch"


@dataclass(frozen=True)
class RemotePaths:
    """Every path below `root`, which may begin with `~/`."""

    root: str

    def scripts(self, digest: str) -> str:
        """Return the folder of the job scripts with that digest."""
        return posixpath.join(self.root, "remote", digest)

    def job(self, name: str) -> str:
        """Return the folder of one job's own files."""
        return posixpath.join(self.root, "jobs", name)

    def record(self, name: str) -> str:
        """Return the file that holds the deployment as it was when that job was submitted."""
        return posixpath.join(self.root, "jobs", name, "record.json")

    def log(self, job: int | str) -> str:
        """Return the file that a job prints to; `%j` is replaced by sbatch."""
        return posixpath.join(self.root, "logs", f"{job}.log")

    def connection(self, job_id: int) -> str:
        """Return the file in which the job publishes where its vLLM listens."""
        return posixpath.join(self.root, "logs", f"connection-{job_id}.json")

    def end(self, job_id: int) -> str:
        """Return the file in which the job records why it ended."""
        return posixpath.join(self.root, "logs", f"end-{job_id}.json")

    def logs_readme(self) -> str:
        """Return a file whose upload creates the log folder: Slurm fails a job whose output has no folder."""
        return posixpath.join(self.root, "logs", "README")

    def file_hashes(self) -> str:
        """Return the folder where scripts keep the hashes of images and models, so that none is computed twice."""
        return posixpath.join(self.root, "cache", "hashes")
