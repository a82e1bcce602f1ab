#!/bin/bash
# Watches one job's vLLM for health and idleness, writes heartbeats, and ends a job that was idle for too long.
#
#   idle_watch.sh JOB_DIR PORT SCRATCH BATCH_PID
#
# It never makes load. Sites forbid jobs that only look busy (Bouchet's rules lock the account) and cancel jobs with an
# idle GPU after a while (Bouchet: two hours); this script ends the job before that, cleanly.
set -u -o pipefail
umask 077

job_dir=$1 port=$2 scratch=$3 batch_pid=$4
probe_vllm() { python3 "$(dirname "$0")/probe_vllm.py" "$@"; }
duration() { if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min"; fi; } # SECONDS

limit=$(probe_vllm idle-timeout "$job_dir") || exit 1
# Seconds between probes. A short limit is watched closely, so that its warning comes before its end. Tests set it.
every=${BOUCHET_KEEPALIVE_S:-$((limit > 0 && limit < 300 ? (limit + 9) / 10 : 30))}
idle_since=$(date +%s) last='' warned=''

while kill -0 "$batch_pid" 2>/dev/null; do
    # sleep as a child process, so that SIGTERM does not wait for it
    sleep "$every" &
    wait "$!"
    now=$(date +%s)
    # "STATE WORK": WORK changes whenever vLLM has done something, and is `busy` while it does
    read -r state work <<< "$(probe_vllm probe "$job_dir" "$port" "$scratch")"
    if [ "$state" != ok ] || [ "$work" = busy ] || [ "$work" != "$last" ]; then
        idle_since=$now last=$work warned=''
        rm -f "$scratch/warning"
    fi
    idle=$((now - idle_since))
    probe_vllm heartbeat "$job_dir" "$state" "$idle"
    if [ "$limit" -gt 0 ] && [ -z "$warned" ] && [ "$idle" -ge $((limit * 4 / 5)) ]; then
        warned="no request for $(duration "$idle"); the job ends after $(duration "$limit") without a request"
        printf 'bouchet: %s\n' "$warned"
        # guard.py returns it with /health
        printf '%s\n' "$warned" > "$scratch/warning"
    fi
    if [ "$limit" -gt 0 ] && [ "$idle" -ge "$limit" ]; then
        # the worker adds how to launch it again, and how long that takes
        printf 'idle for %s\n' "$(duration "$idle")" > "$scratch/idle"
        kill -TERM "$batch_pid"
        exit 0
    fi
done
