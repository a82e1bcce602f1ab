# shellcheck shell=bash disable=SC2154,SC2034  # variables are the sourcing script's too
# One node's part of a job: its scratch folder, its vLLM in the container, its cleanup. Sourced by vllm-serve.sbatch on
# the first node and by rank.sh on every other one, which set job_dir and scripts, and define how an end is reported:
#
#   finish KIND STATUS SENTENCE...    ends the script

vllm_job() { python3 "$scripts/vllm_job.py" "$@"; }
step() { printf 'bouchet: %s\n' "$*"; }

node=${SLURMD_NODENAME:-$(hostname -s)}
scratch='' container_pid='' cache_writer_pid='' groups=() started='' is_setting_up=''

# Node-local, so that vLLM's sockets and scratch files are on no network disk and are removed with the job.
make_scratch() {
    local output
    if [ ! -d "${TMPDIR:-}" ]; then TMPDIR=/tmp; fi
    remove_dead_scratch
    if ! output=$(mktemp -d "$TMPDIR/bouchet-${SLURM_JOB_ID:?}-$node-XXXXXX" 2>&1); then
        finish refused 1 "$TMPDIR on $node cannot be used (${output##*: }): free some space there, or launch on another node"
    fi
    scratch=$output
    # renamed once it is locked: another job never sees it unlocked while this one lives
    exec 8> "$scratch/alive.new" && flock 8 && mv "$scratch/alive.new" "$scratch/alive"
}
# Removes scratch folders of this node's jobs that were killed: no process of theirs holds the lock. Those of other nodes
# are in the same place where TMPDIR is on a shared disk, and a lock there may not be visible from here.
remove_dead_scratch() {
    local alive
    for alive in "$TMPDIR"/bouchet-*-"$node"-??????/alive; do
        if [[ $alive =~ /bouchet-[0-9]+-"$node"-[^-/]{6}/alive$ ]] && [ -O "$alive" ] && flock --nonblock "$alive" true; then
            rm -rf -- "${alive%/alive}"
        fi
    done
}

# Starts a command in a process group of its own, so that it can be ended as a whole; its number is in $started.
run_in_group() {
    set -m
    "$@" &
    started=$!
    set +m
    groups+=("$started")
}

# Kills what runs in the container, but not Apptainer itself, which then unmounts: killed with the rest, it would leave
# the processes of its mounts running.
kill_in_container() {
    local pid
    for pid in $(pgrep -g "$container_pid"); do
        if [ "$pid" != "$container_pid" ]; then kill -KILL "$pid" 2>/dev/null; fi
    done
}

# Repeats that until the container is gone: one that is just starting has no process to kill yet.
kill_container() {
    local _
    for _ in {1..40}; do
        kill_in_container
        sleep 0.5
        if ! kill -0 "$container_pid" 2>/dev/null; then return; fi
    done
    kill -KILL "$container_pid" 2>/dev/null
}

# Ends all processes of the job and removes its scratch folder.
clean_up() {
    local group
    if [ -n "$container_pid" ] && kill -0 "$container_pid" 2>/dev/null; then
        kill_in_container
        sleep 1
    fi
    for group in "${groups[@]+"${groups[@]}"}"; do kill -KILL -- "-$group" 2>/dev/null; done
    if [ "${#groups[@]}" -gt 0 ]; then wait "${groups[@]}" 2>/dev/null; fi
    clean_shared_memory
    rm -rf -- "$scratch"
}
# A killed vLLM leaves semaphores in the node's shared memory, which Apptainer does not separate from the job's own.
# Those made since the job began are removed, if the user has no other process here that could use them.
clean_shared_memory() {
    local _
    if [ -z "$scratch" ]; then return; fi
    for _ in {1..5}; do
        if is_only_process; then
            find "${BOUCHET_SHM:-/dev/shm}" -maxdepth 1 -type f -user "$EUID" -newer "$scratch/alive" \
                \( -name 'sem.*' -o -name 'psm_*' -o -name 'nccl-*' -o -name 'torch_*' \) -delete 2> /dev/null
            return
        fi
        sleep 0.2
    done
}
# Whether this script is the user's only process here. Zombies may wait for a slow parent.
is_only_process() {
    local pid parent state
    ps -U "$EUID" -o pid=,ppid=,stat= > "$scratch/processes" || return 1
    while read -r pid parent state; do
        if [ "$pid" != "$$" ] && [ "$parent" != "$$" ] && [ "${state#Z}" = "$state" ]; then return 1; fi
    done < "$scratch/processes"
}

# SIGTERM for vLLM itself, not for its engine: it finishes running requests within --shutdown-timeout.
end_vllm() {
    local vllm_pid=''
    if [ -s "$scratch/vllm.pid" ]; then vllm_pid=$(< "$scratch/vllm.pid"); fi
    kill -TERM "${vllm_pid:-$container_pid}" 2>/dev/null
}

set_up_node() {
    local path
    if [ ! -s "$job_dir/setup.sh" ]; then return; fi
    step "setting up the node"
    is_setting_up=yes
    # `module` is a shell function of the login profile
    set +u
    path=$PATH
    # shellcheck disable=SC1091
    if [ -r /etc/profile ]; then . /etc/profile > /dev/null 2>&1; fi
    PATH=$path:$PATH
    # shellcheck disable=SC1091
    . "$job_dir/setup.sh" || finish refused 1 "the site's setup lines failed (setup_lines in the site file)"
    # setup lines may set -e, which would end this script at the first command that fails
    set +e -u
    is_setting_up=''
}

# A large image is hashed within minutes. Disks that do not answer for longer must not hold the GPUs.
prepare_s=${BOUCHET_PREPARE_S:-1800}

# Checks the image and the model. Sets apptainer, image, model, cache, port, listen, binds, arguments and key.
prepare_node() {
    local prepared field bind
    step "checking the image"
    if ! command -v python3 > /dev/null; then
        finish refused 1 "there is no python3 on $node: load one with setup_lines in the site file (module load ...)"
    fi
    prepared=$(timeout -s KILL "$prepare_s" python3 "$scripts/vllm_job.py" prepare "$job_dir" "$scratch") || {
        if [ "$?" = 137 ]; then prepared="image and model could not be read on $node within $((prepare_s / 60)) min: its \
disks do not answer; launch on another node"; fi
        finish refused 1 "${prepared:-the job could not be prepared; see its log}"
    }
    mapfile -t field <<< "$prepared"
    apptainer=${field[0]} image=${field[1]} model=${field[2]} cache=${field[3]} port=${field[4]} listen=${field[5]}
    if ! command -v "$apptainer" > /dev/null; then
        finish refused 1 "there is no $apptainer on $node: check apptainer and setup_lines in the site file"
    fi
    binds=()
    for bind in "${field[@]:6}"; do binds+=(--bind "$bind"); done
    mapfile -t arguments < "$scratch/vllm.args"
    IFS= read -r key < "$job_dir/key" ||
        finish refused 1 "the job's key file $job_dir/key cannot be read on $node; launch again"
}

# Starts vLLM in the container. ADDRESS: this node's own one, where the job has several; the rest is for `vllm serve`.
# argv and environment are written to files first, for the connection file.
start_vllm() { # ADDRESS ARGUMENT...
    local address=$1
    shift
    step "starting the container"
    mkdir -p "$scratch/tmp" "$cache"
    vllm_job environment "$job_dir" "$address" > "$scratch/environment"
    # shellcheck disable=SC2016  # $$ and $@ are the inner shell's
    container=("$apptainer" exec --nv --cleanenv --no-home --no-mount cwd --pwd /tmp
        --bind "$scratch/tmp:/tmp" --bind "$scratch:/bouchet/job" --bind "$scripts:/bouchet/remote:ro"
        --bind "$cache:/bouchet/cache" "${binds[@]}" "$image"
        /bin/sh -c 'echo "$$" > /bouchet/job/vllm.pid; exec "$@"' vllm-serve
        vllm serve "$model" "$@" "${arguments[@]}")
    printf '%s\0' "${container[@]}" > "$scratch/container"
    run_in_group in_container
    container_pid=$started
    kernels=("${job_dir%/jobs/*}/logs/heartbeat-$SLURM_JOB_ID.json" "$cache" "$SLURM_JOB_ID-$node")
    save_kernels_when_ready
}

# In a subshell of its own: what it exports reaches no other program of the job.
in_container() {
    local pair prefix=APPTAINERENV_
    case ${apptainer##*/} in singularity*) prefix=SINGULARITYENV_ ;; esac
    # Into the container through the environment: every user of the node can read argv.
    while IFS= read -r -d '' pair; do
        export "$prefix$pair"
    done < "$scratch/environment"
    export "${prefix}VLLM_API_KEY=$key"
    # What the login environment sets for Apptainer would apply to this container as well.
    unset APPTAINER_BIND APPTAINER_BINDPATH SINGULARITY_BIND SINGULARITY_BINDPATH
    exec "${container[@]}" < /dev/null
}

# Saves what vLLM compiles for later jobs: when it answers, and again at the end.
save_kernels_when_ready() {
    if [ -n "$cache_writer_pid" ]; then return; fi
    run_in_group python3 "$scripts/kernel_cache.py" when-ready "${kernels[@]}"
    cache_writer_pid=$started
}
save_kernels() { # SECONDS
    if [ -z "$cache_writer_pid" ]; then return; fi
    kill -TERM -- "-$cache_writer_pid" 2>/dev/null
    wait "$cache_writer_pid" 2>/dev/null
    timeout -k 1 "$1" python3 "$scripts/kernel_cache.py" save "${kernels[@]}"
}

# Waits for vLLM's end; its status is in $status. A trap ends `wait` early; vLLM may still be finishing requests.
wait_for_vllm() {
    status=0
    while :; do
        wait "$container_pid"
        status=$?
        if ! kill -0 "$container_pid" 2>/dev/null; then break; fi
    done
}
