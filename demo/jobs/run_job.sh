#!/bin/bash
# Submits a job script and waits for the job's end; run on the login node. Says the job's number, then its state.
# usage: run_job.sh PARTITION SCRIPT ARGUMENT...
# Fails if the job does, after the last lines of its log. (sbatch --wait asks only every half minute or so.)
set -euo pipefail

readonly partition=${1:?usage: run_job.sh PARTITION SCRIPT ARGUMENT...}
readonly logs=$HOME/.provision
shift

state_of() { scontrol show job "$1" 2>/dev/null | sed -nE 's/^ *JobState=([A-Z_]+).*/\1/p'; }

mkdir -p "$logs"
cd "$logs"
job=$(sbatch --parsable --partition="$partition" --output=%x-%j.log "$@")
readonly job
echo "job $job"
while state=$(state_of "$job"); [[ $state =~ ^(PENDING|CONFIGURING|RUNNING|COMPLETING|SUSPENDED)$ ]]; do sleep 0.5; done
echo "job $job $state"
[[ $state == COMPLETED ]] && exit 0
tail -n 15 ./*-"$job".log 2>/dev/null || echo "the job left no log"
exit 1
