#!/bin/bash
# Watches one job's vLLM: health and idleness. Reports, and gives the GPU back when nobody has used it for long enough.
#
#   idle_watch.sh JOB_DIR PORT SCRATCH BATCH_PID
#
# It never makes load. Sites forbid jobs that only look busy (Bouchet's rules lock the account), and they take an idle GPU
# away by force after a while (Bouchet: two hours): we hand it back before, cleanly.
set -u -o pipefail
umask 077

job_dir=$1 port=$2 scratch=$3 batch_pid=$4
watch() { python3 "$(dirname "$0")/probe_vllm.py" "$@"; }
in_words() { if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min"; fi; } # SECONDS

limit=$(watch idle-timeout "$job_dir") || exit 1
# Seconds between looks. A short limit is watched closely: its warning has to come before its end. Tests make it short.
every=${BOUCHET_KEEPALIVE_S:-$((limit > 0 && limit < 300 ? (limit + 9) / 10 : 30))}
idle_since=$(date +%s) last='' warned=''

while kill -0 "$batch_pid" 2>/dev/null; do
    # sleep as a child, so that SIGTERM is not kept waiting for it
    sleep "$every" &
    wait "$!"
    now=$(date +%s)
    # "STATE WORK": WORK changes whenever vLLM has done something, and is `busy` while it does
    read -r state work <<< "$(watch probe "$job_dir" "$port" "$scratch")"
    if [ "$state" != ok ] || [ "$work" = busy ] || [ "$work" != "$last" ]; then
        idle_since=$now last=$work warned=''
        rm -f "$scratch/warning"
    fi
    idle=$((now - idle_since))
    watch heartbeat "$job_dir" "$state" "$idle"
    if [ "$limit" -gt 0 ] && [ -z "$warned" ] && [ "$idle" -ge $((limit * 4 / 5)) ]; then
        warned="nobody has asked it for $(in_words "$idle"); the job ends after $(in_words "$limit") without a request"
        printf 'bouchet: %s\n' "$warned"
        # the guard tells it to who asks for its health
        printf '%s\n' "$warned" > "$scratch/warning"
    fi
    if [ "$limit" -gt 0 ] && [ "$idle" -ge "$limit" ]; then
        # how to have it back, and how soon, the worker adds: it has measured that
        printf 'idle for %s\n' "$(in_words "$idle")" > "$scratch/idle"
        kill -TERM "$batch_pid"
        exit 0
    fi
done
