"""What Slurm 24.11 of the demo cluster prints, and what probe_login_node.py prints on a healthy login node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bouchet_core.config.site import Site
from bouchet_core.doctor import DoctorCheck
from bouchet_worker.doctor.checks import image_path

PARTITIONS = """\
PartitionName=day AllowGroups=ALL QoS=N/A MaxNodes=UNLIMITED MaxTime=1-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=gpu_devel AllowGroups=ALL QoS=gpu_devel MaxTime=06:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=gpu_h200 AllowGroups=ALL QoS=gpu_h200 MaxTime=2-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=scavenge_gpu AllowGroups=ALL QoS=N/A MaxTime=1-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
"""
NODES = """\
day|gpu:h200:2|16|128000
gpu_devel|gpu:h200:2(S:0-1)|16|128000
gpu_h200|gpu:h200:2|16|128000+
gpu_h200|gpu:h200:1|8|64000
scavenge_gpu|gpu:h200:2|16|128000
"""
QOS = """\
normal||||
gpu_devel||cpu=12,gres/gpu=2|1|2
gpu_h200||gres/gpu=3||
"""


def probe_result(site: Site, **changes: Any) -> dict[str, Any]:
    """Return the probe of a healthy login node, with changes."""
    directory = {"exists": True, "writable": True, "nearest": "/", "free": 900 << 30, "total": 1000 << 30}
    paths = [path for path in (site.root, site.models_dir, site.images_dir, site.scratch_dir) if path]
    image = {"exists": True, "readable": True, "size": 9 << 30, "recorded": "a" * 64, "computed": None}
    healthy = {
        "directories": dict.fromkeys(paths, directory),
        "images": {image_path(site, pinned): image for pinned in site.images},
        "quota": "",
        "models": [],
        "python": "3.6.8",
        "time": 0,
    }
    return {**healthy, **changes}


def verdicts(checks: Sequence[DoctorCheck]) -> dict[str, str]:
    """Return the verdicts by the names of the checks."""
    return {check.name: check.verdict.value for check in checks}
