"""What every task works with: the stores and clients of one worker, its job scripts, and paths on the cluster.

No other module spells a remote path:

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
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bouchet_core.config.catalog import Catalog
from bouchet_core.config.job_scripts import ScriptBundle
from bouchet_core.config.site import Site
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import installation_id
from bouchet_core.store import Store

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


# how work beside the reconcile loop is started; tests run it in the calling thread
StartWork = Callable[[Callable[[], None]], None]


def utc_now() -> datetime:
    """Return the current time in UTC: the default clock."""
    return datetime.now(UTC)


def start_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with the process; the next worker does the work again."""
    threading.Thread(target=work, name="background", daemon=True).start()


@dataclass(frozen=True)
class WorkerContext:
    """The clients, the configuration and the secrets of one worker."""

    store: Store
    gateway: GatewayClient
    site: Site
    catalog: Catalog
    scripts: ScriptBundle
    serving_secret: str
    # how many deployments can be reached at a time
    slot_count: int
    # holder of this worker's leases: the container's name, which survives a restart, so a restarted worker has its
    # own leases back at once
    owner: str
    now: Callable[[], datetime] = utc_now
    # for gated models on the hub, where this installation has a token
    hub_token: str | None = None
    # image pins (apptainer/pins), and the files that every image is built with (apptainer/)
    pins_dir: Path = Path("/etc/bouchet/pins")
    recipe_dir: Path = Path("/app/apptainer")
    # set once the user's queue was too long to be listed whole
    has_long_queue: threading.Event = field(default_factory=threading.Event)

    @property
    def installation(self) -> str:
        """The id that the jobs of this installation carry in their record.json."""
        return installation_id(self.serving_secret)

    @property
    def paths(self) -> RemotePaths:
        """The names of all files and folders on the cluster."""
        return RemotePaths(self.site.root)

    @property
    def scripts_dir(self) -> str:
        """The folder of this version's job scripts on the cluster."""
        return self.paths.scripts(self.scripts.digest)
