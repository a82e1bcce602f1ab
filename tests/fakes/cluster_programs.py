"""The programs of a login node that a probe runs, for kinds of clusters that are not at hand: each prints a record.

`sbatch --test-only` accepts or refuses by the rules that the sites document; `ssh` runs the script in this machine's
shell, after what a start-up file prints.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SBATCH = """#!{python}
import sys
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
if options.get("partition") in {closed!r}:
    sys.exit("allocation failure: User's group not permitted to use this partition")
for name in {refused!r}:
    if name in options:
        sys.exit("sbatch: error: --" + name + " is not allowed on this system")
gpus = [value for name, value in options.items() if name.startswith("gpus") or name == "gres"]
if {asks_for_feature!r} and gpus and ":h" in gpus[0]:
    sys.exit("sbatch: error: GPU types are no part of a request here, they are features")
if {asks_for_feature!r} and gpus and "constraint" not in options:
    sys.exit("sbatch: error: choose the kind of GPU with --constraint")
if {account!r} and options.get("account") != {account!r}:
    sys.exit("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified")
sys.stderr.write("sbatch: Job 7 to start at 2026-11-29T12:00:00 using 1 processors on nodes n1\\n")
"""


@dataclass(frozen=True)
class KindOfCluster:
    """What its programs print. refused: options of sbatch; account: the one that it demands.

    asks_for_feature: GPUs are asked for without a type, with a feature of the nodes.
    """

    partitions: str
    nodes: str
    associations: str = ""
    qos: str = ""
    config: str = "AccountingStorageType   = accounting_storage/slurmdbd"
    reservations: str = "No reservations in the system"
    refused: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    account: str = ""
    asks_for_feature: bool = False
    noise: str = ""
    exits: bool = False
    other_programs: Mapping[str, str] = field(default_factory=dict)

    def install(self, folder: Path) -> Path:
        """Write the programs into `folder`/bin, and return it."""
        programs = folder / "bin"
        programs.mkdir()
        records = {"partition": self.partitions, "config": self.config, "reservations": self.reservations}
        for name, text in {**records, "nodes": self.nodes, "assoc": self.associations, "qos": self.qos}.items():
            (folder / name).write_text(text + "\n")
        rules = {"refused": self.refused, "account": self.account, "closed": self.closed}
        sbatch = SBATCH.format(python=sys.executable, asks_for_feature=self.asks_for_feature, **rules)
        scripts = {
            "sbatch": sbatch,
            "scontrol": f'#!/bin/sh\nfor last; do :; done\ncat "{folder}/$last"\n',
            "sinfo": f'#!/bin/sh\ncase $1 in --version) echo slurm 24.05.4 ;; *) cat "{folder}/nodes" ;; esac\n',
            "sacctmgr": f'#!/bin/sh\ncat "{folder}/$4"\n',
            "curl": "#!/bin/sh\nprintf 200\n",
            "ssh": self._ssh(),
            **{name: f"#!/bin/sh\n{text}\n" for name, text in self.other_programs.items()},
        }
        for name, text in scripts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        return programs

    def _ssh(self) -> str:
        end = "exit 1" if self.exits else "exec /bin/sh -s"
        return f"#!/bin/sh\ncase $1 in -O) exit 0 ;; esac\nprintf '%s\\n' '{self.noise}'\n{end}\n"


BOUCHET = KindOfCluster(
    partitions="""\
PartitionName=day Default=YES MaxTime=1-00:00:00 OverSubscribe=NO PreemptMode=REQUEUE PriorityTier=10 QoS=normal
PartitionName=gpu_devel MaxTime=06:00:00 OverSubscribe=NO PreemptMode=REQUEUE PriorityTier=10 QoS=gpu_devel
PartitionName=gpu_h200 MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=REQUEUE PriorityTier=10 QoS=gpu_h200
PartitionName=scavenge_gpu MaxTime=1-00:00:00 OverSubscribe=NO PreemptMode=REQUEUE PriorityTier=1 QoS=(null)""",
    nodes="""\
day*|60|64|1024000|(null)|cpu
gpu_devel|1|48|2043000|gpu:h200:8(S:0-1)|h200
gpu_h200|9|48|2043000|gpu:h200:8(S:0-1)|h200
scavenge_gpu|9|48|2043000|gpu:h200:8(S:0-1)|h200""",
    associations="pi_x||normal|\npi_x|gpu_h200|normal|",
    qos="normal|||||\ngpu_devel|cpu=12,gres/gpu=2,mem=256G|1|1||\ngpu_h200|gres/gpu=16|6||gres/gpu=32|",
    reservations="ReservationName=maint StartTime=2026-12-08T08:00:00 EndTime=2026-12-10T17:00:00 Flags=MAINT,ALL",
    other_programs={"apptainer": "echo 1.4", "getquota": "echo"},
)
STAMPEDE3 = KindOfCluster(
    partitions="""\
PartitionName=h100 MaxTime=2-00:00:00 OverSubscribe=EXCLUSIVE PreemptMode=OFF PriorityTier=1
PartitionName=skx Default=YES MaxTime=2-00:00:00 OverSubscribe=EXCLUSIVE PreemptMode=OFF PriorityTier=1""",
    nodes="h100|24|96|1031000|gpu:h100:4|h100\nskx*|1000|48|192000|(null)|skx",
    associations="ABC123||normal|",
    refused=("gres", "gpus-per-task", "gpus", "gpus-per-node"),
    account="ABC123",
    noise="---- Welcome to Stampede3 ---- 100 % of your quota",
)
DELTA = KindOfCluster(
    partitions="""\
PartitionName=gpuH200x8 MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=1
PartitionName=gpuA100x4 MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=1
PartitionName=gpu_private MaxTime=UNLIMITED OverSubscribe=NO PreemptMode=OFF PriorityTier=1
PartitionName=cpu Default=YES MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=1""",
    nodes="""\
gpuH200x8|8|96|2000000|gpu:nvidia_h200:8|h200
gpuA100x4|100|64|256000|gpu:nvidia_a100:4|a100
gpu_private|1|64|256000|gpu:nvidia_a100:4|a100
cpu*|132|128|256000|(null)|cpu""",
    associations="bbbb-delta-cpu||normal|\nbbbb-delta-gpu||normal|",
    refused=("gpus-per-task",),
    closed=("gpu_private",),
    account="bbbb-delta-gpu",
    config="JobSubmitPlugins        = lua\nAccountingStorageType   = accounting_storage/slurmdbd",
    other_programs={"apptainer": "echo 1.4"},
)
# as centres do whose nodes of several kinds are in one partition
WITH_FEATURES = KindOfCluster(
    partitions="""\
PartitionName=gpu MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=1
PartitionName=cpu Default=YES MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=1""",
    nodes="gpu|8|64|512000|gpu:h200:4|rack7,h200\ncpu*|16|64|256000|(null)|rack8",
    associations="m1234||normal|",
    refused=("gpus", "gpus-per-node", "gpus-per-task"),
    account="m1234",
    asks_for_feature=True,
)
SHERLOCK = KindOfCluster(
    partitions="""\
PartitionName=gpu MaxTime=7-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=5
PartitionName=normal Default=YES MaxTime=7-00:00:00 OverSubscribe=NO PreemptMode=OFF PriorityTier=5
PartitionName=owners MaxTime=2-00:00:00 OverSubscribe=NO PreemptMode=REQUEUE PriorityTier=1""",
    nodes="""\
gpu|10|32|256000|gpu:4(S:0-1)|GPU_SKU:H100_SXM5,GPU_MEM:80GB
normal*|200|32|256000|(null)|CPU_GEN:MLN
owners|500|32|256000|gpu:4(S:0-1)|GPU_SKU:A100_SXM4,GPU_MEM:80GB""",
    config="AccountingStorageType   = accounting_storage/none",
    other_programs={"singularity": "echo 3.11"},
)
