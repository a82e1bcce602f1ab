"""What can be wrong before vLLM answers: images, weights, files, programs, disks. Each ends in what a person can do.

All of them are launched first, and end while the nodes' own faults are tried one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.stack.harness import Stack
from tests.stack.job_faults import (
    LOGS,
    Staged,
    change_spec,
    demo_node,
    end,
    ended,
    let_go,
    mounting,
    nothing_left,
    nothing_starts,
    shell,
    spare_node,
    stage,
)

# the gateway has sixteen slots; the stack's own model holds one, the scripted one may hold another
AT_ONCE = 4
PLACE = "/home/researcher/faults"
IMAGES, MODELS = f"{PLACE}/images", f"{PLACE}/models"
# copies under other names: all stacks of a machine share the real ones
MAKE = f"""
set -e
rm -rf {PLACE}; mkdir -p {IMAGES} {PLACE}/closed
sif=/software/images/cpu-0.32.0.sif
for name in cut cut-known; do head -c 1000000 $sif > {IMAGES}/$name.sif; cp $sif.sha256 {IMAGES}/$name.sif.sha256; done
sha256sum {IMAGES}/cut-known.sif > {IMAGES}/cut-known.sif.sha256
echo another > {IMAGES}/wrong.sif; cp $sif.sha256 {IMAGES}/wrong.sif.sha256
for name in missing cut config nonsense; do
  mkdir -p {MODELS}/$name/demo; cp -r /software/models/demo/scripted {MODELS}/$name/demo/
done
echo '{{"weight_map": {{"a": "model.safetensors", "b": "model-2.safetensors"}}}}' \
  > {MODELS}/missing/demo/scripted/model.safetensors.index.json
truncate -s 1000000 {MODELS}/cut/demo/scripted/model.safetensors
echo '{{"architectures": [' > {MODELS}/config/demo/scripted/config.json
echo '{{"architectures": ["NoSuchForCausalLM"], "model_type": "no_such"}}' > {MODELS}/nonsense/demo/scripted/config.json
chmod 000 {PLACE}/closed
"""


@dataclass(frozen=True)
class Fault:
    """What is changed of the job before it starts: fields of its spec.json, then a script in its folder."""

    words: tuple[str, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    script: str = ""


FAULTS = {
    "image-cut": Fault(("is not the pinned one", "build it again"), {"image": f"{IMAGES}/cut.sif"}),
    "image-cut-known": Fault(("FATAL", "`bouchet image verify`"), {"image": f"{IMAGES}/cut-known.sif"}),
    "image-wrong": Fault(("is not the pinned one", "build it again"), {"image": f"{IMAGES}/wrong.sif"}),
    "images-closed": Fault(("Permission denied", "contact the site's support"), {"image": f"{PLACE}/closed/x.sif"}),
    "models-closed": Fault((f"{PLACE}/closed", "Permission denied", "contact the"), {"models_dir": f"{PLACE}/closed"}),
    "shard-missing": Fault(
        ("1 of its 2 weight files are missing (model-2.safetensors)", "`bouchet download demo/scripted`"),
        {"models_dir": f"{MODELS}/missing"},
    ),
    "shard-cut": Fault(
        ("model.safetensors is truncated: 1000000 of 4804872 bytes", "`bouchet download demo/scripted`"),
        {"models_dir": f"{MODELS}/cut"},
    ),
    "config-broken": Fault(("config.json is damaged", "`bouchet download"), {"models_dir": f"{MODELS}/config"}),
    "config-nonsense": Fault(("vLLM exited with status", "needs a newer image"), {"models_dir": f"{MODELS}/nonsense"}),
    "key-missing": Fault(("key file", "cannot be read", "launch again"), script="rm key"),
    "key-unreadable": Fault(("key file", "cannot be read", "launch again"), script="chmod 000 key"),
    "no-apptainer": Fault(("there is no apptainer-9", "site file"), {"apptainer": "apptainer-9"}),
    "spec-missing": Fault(("cannot read the job's spec.json", "launch again"), script="rm spec.json"),
}


@dataclass
class Trial:
    """The deployments of this file: those that are on their way, and those staged for a node's own faults."""

    stack: Stack
    staged: list[Staged] = field(default_factory=list)

    def stage(self, name: str) -> Staged:
        one = stage(self.stack, f"fault-{name}")
        self.staged.append(one)
        return one

    def break_and_run(self, name: str) -> dict[str, Any]:
        """Break the launch, let it start, and return its record at the end."""
        one, fault = self.stage(name), FAULTS[name]
        if fault.spec:
            change_spec(self.stack, one, **fault.spec)
        if fault.script:
            shell(self.stack, "demo-login", f"cd {one.folder} && {fault.script}")
        # the other node has faults of its own meanwhile
        let_go(self.stack, one, demo_node(self.stack))
        return ended(self.stack, one)


Records = dict[str, "Future[dict[str, Any]]"]


@pytest.fixture(scope="module")
def trial(stack: Stack, room: None) -> Iterator[Trial]:
    shell(stack, "demo-login", MAKE)
    trial = Trial(stack)
    try:
        with nothing_starts(stack):
            yield trial
    finally:
        end(stack, trial.staged)
        shell(stack, "demo-login", f"chmod -R u+rwX {PLACE}; rm -rf {PLACE}")


@pytest.fixture(scope="module")
def records(trial: Trial) -> Iterator[Records]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(trial.break_and_run, name) for name in FAULTS}


@dataclass(frozen=True)
class NodeFault:
    """What is wrong with a node, and how that is made and undone."""

    words: str
    mount: str = ""
    path: str = ""
    made: str = ""
    undone: str = ""

    @contextmanager
    def on(self, stack: Stack, node: str) -> Iterator[None]:
        """Apply the fault to a node."""
        if self.made:
            shell(stack, f"demo-{node}", self.made, "root")
        if self.mount:
            mounting(stack, node, self.mount.format(path=self.path))
        try:
            yield
        finally:
            if self.mount:
                mounting(stack, node, f"umount {self.path}")
            if self.undone:
                shell(stack, f"demo-{node}", self.undone, "root")


FULL = "mount -t tmpfs -o size=16k,mode=1777 faults {path} && dd if=/dev/zero of={path}/full bs=1k 2>/dev/null; true"
CLOSED = "mount -t tmpfs -o mode=0755 faults {path}"
PYTHON = "/usr/bin/python3"
NODE_FAULTS = {
    "no-python": NodeFault(
        "there is no python3 on {node}", made=f"mv {PYTHON} {PYTHON}-", undone=f"mv {PYTHON}- {PYTHON}"
    ),
    "scratch-full": NodeFault("No space left on device; free some space there", FULL, "/tmp"),
    "scratch-closed": NodeFault("/tmp on {node} cannot be used (Permission denied)", CLOSED, "/tmp"),
    "logs-closed": NodeFault(f"Slurm could not open the job's log in {LOGS} on node {{node}}", CLOSED, LOGS),
    "logs-full": NodeFault(f"the job could not write its files in {LOGS} from node {{node}}", FULL, LOGS),
}


@pytest.mark.parametrize("name", NODE_FAULTS)
def test_start_node_fault_is_explained(stack: Stack, records: Records, trial: Trial, name: str) -> None:
    node, staged, fault = spare_node(stack), trial.stage(name), NODE_FAULTS[name]
    with fault.on(stack, node):
        let_go(stack, staged, node)
        record = ended(stack, staged)
    assert record["ending"] == "failed" and fault.words.format(node=node) in record["reason"], record["reason"]


@pytest.mark.parametrize("name", FAULTS)
def test_start_file_fault_is_explained(stack: Stack, records: Records, name: str) -> None:
    record = records[name].result(timeout=180)
    assert record["ending"] == "failed", record["reason"]
    assert [words for words in FAULTS[name].words if words not in record["reason"]] == [], record["reason"]
    assert record["jobs"][-1]["node"], "where it failed is on the record"


def test_start_faults_leave_nothing(stack: Stack, records: Records, trial: Trial) -> None:
    nothing_left(stack, [one.slurm_id for one in trial.staged])
