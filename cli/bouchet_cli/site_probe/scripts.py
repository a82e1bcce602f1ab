"""The shell scripts that a probe runs on a login node. They only read; `sbatch --test-only` submits nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

# where sites put Slurm when it is not on the PATH of a shell that ssh starts
SLURM_FOLDERS = (
    "/opt/slurm/bin", "/usr/local/slurm/bin", "/opt/slurm/current/bin", "/cm/shared/apps/slurm/current/bin",
    "/usr/slurm/bin", "/opt/slurm/default/bin", "/usr/local/bin",
)  # fmt: skip

_FIND_SLURM = f"""
slurm_dir=
if ! command -v sbatch >/dev/null 2>&1; then
  found=$("${{SHELL:-/bin/sh}}" -lc 'command -v sbatch' </dev/null 2>/dev/null | tail -n 1)
  for one in "${{found%/*}}" {" ".join(SLURM_FOLDERS)}; do
    if [ -x "$one/sbatch" ]; then slurm_dir=$one; PATH=$one:$PATH; export PATH; break; fi
  done
fi
"""

FACTS = (
    _FIND_SLURM
    + r"""
section user; id -un; printf '%s\n' "$HOME" "${SHELL:-}"
section slurm_dir; printf '%s\n' "$slurm_dir"
section sbatch; command -v sbatch
section version; sinfo --version
section partitions; scontrol --oneliner show partition
section nodes; sinfo --noheader --format='%P|%D|%c|%m|%G|%f'
section config; scontrol show config
section associations
sacctmgr --noheader --parsable2 show assoc user="$(id -un)" format=account,partition,qos,defaultqos
section qos
sacctmgr --noheader --parsable2 show qos format=name,maxtrespu,maxjobspu,maxsubmitpu,grptres,maxwall
section reservations; scontrol --oneliner show reservations
section containers; for one in apptainer singularity podman enroot shifter; do command -v "$one"; done
section modules
"${SHELL:-/bin/sh}" -lc 'module -t avail' </dev/null 2>&1 | grep -iE 'apptainer|singularity' | head -n 20
section directories
for one in "$HOME"/project* "$HOME"/scratch* "${WORK:-}" "${SCRATCH:-}" "${PROJECT:-}" /projects/* \
  /scratch/"$(id -un)"; do
  if [ -n "$one" ] && [ -d "$one" ] && [ -w "$one" ]; then printf '%s\n' "$one"; fi
done
section quota; for one in getquota myquota quota; do command -v "$one" && break; done
section caches
for one in "${HF_HOME:-}/hub" "${HF_HUB_CACHE:-}" "$HOME/.cache/huggingface/hub" "$HOME"/project*/*/hf_cache/hub \
  "$HOME"/project*/hf_cache/hub "$HOME"/project*/*/huggingface/hub; do
  if ls -d "$one"/models--* >/dev/null 2>&1; then printf '%s\n' "$one"; fi
done
section machine; uname -m
section proxy; printf '%s\n' "${https_proxy:-${HTTPS_PROXY:-}}"
section hub; curl --silent --output /dev/null --max-time 8 --write-out '%{http_code}' https://huggingface.co/api/models/gpt2
"""
)


def test_script(requests: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a script with a section for each name, in which sbatch tests a job with these options."""
    lines = [_FIND_SLURM]
    for name, options in requests:
        argv = shlex.join(["sbatch", "--test-only", "--time=00:10:00", "--nodes=1", "--ntasks-per-node=1", *options])
        lines.append(f"section {name}\nprintf '#!/bin/sh\\n' | {argv}; printf 'status %s\\n' $?\n")
    return "".join(lines)
