# shellcheck shell=bash disable=SC2154,SC2034  # variables are the sourcing script's too
# One node's part of a job: its scratch folder, its vLLM in the container, its end. Sourced by vllm-serve.sbatch on the
# first node and by rank.sh on every other one, which set job_dir and scripts, and say in `finish` how an end is told.
#
#   finish KIND STATUS SENTENCE...    ends the script

jobfile() { python3 "$scripts/job_files.py" "$@"; }
step() { printf 'bouchet: %s\n' "$*"; }

node=${SLURMD_NODENAME:-$(hostname -s)}
scratch='' container_pid='' keeper_pid='' groups=() started=''

# Node-local, so that vLLM's sockets and scratch files are on no network disk and go with the job.
make_scratch() {
    local said
    if [ ! -d "${TMPDIR:-}" ]; then TMPDIR=/tmp; fi
    sweep
    if ! said=$(mktemp -d "$TMPDIR/bouchet-${SLURM_JOB_ID:?}-XXXXXX" 2>&1); then
        finish refused 1 "$TMPDIR on $node cannot be used (${said##*: }): make room there, or launch again elsewhere"
    fi
    scratch=$said
    # renamed once it is locked: nobody sees it unlocked while the job lives
    exec 8> "$scratch/alive.new" && flock 8 && mv "$scratch/alive.new" "$scratch/alive"
}
# What jobs left here that died with their node: nothing of theirs holds the lock.
sweep() {
    local left
    for left in "$TMPDIR"/bouchet-*-??????/alive; do
        if [ -O "$left" ] && flock --nonblock "$left" true; then
            rm -rf -- "${left%/alive}"
        fi
    done
}

# Starts a command in a process group of its own, whose number is in $started: it ends as a whole.
apart() {
    set -m
    "$@" &
    started=$!
    set +m
    groups+=("$started")
}

# Kills what runs in the container, but not Apptainer itself, which then takes its mounts down: killed with the rest, it
# would leave their processes behind.
kill_inside() {
    local pid
    for pid in $(pgrep -g "$container_pid"); do
        if [ "$pid" != "$container_pid" ]; then kill -KILL "$pid" 2>/dev/null; fi
    done
}

# The same until it is gone: a container that is only just starting has nothing inside to kill yet.
kill_container() {
    local _
    for _ in {1..40}; do
        kill_inside
        sleep 0.5
        if ! kill -0 "$container_pid" 2>/dev/null; then return; fi
    done
    kill -KILL "$container_pid" 2>/dev/null
}

# Nothing outlives the job.
clean_up() {
    local group
    if [ -n "$container_pid" ] && kill -0 "$container_pid" 2>/dev/null; then
        kill_inside
        sleep 1
    fi
    for group in "${groups[@]+"${groups[@]}"}"; do kill -KILL -- "-$group" 2>/dev/null; done
    if [ "${#groups[@]}" -gt 0 ]; then wait "${groups[@]}" 2>/dev/null; fi
    sweep_shared_memory
    rm -rf -- "$scratch"
}
# What is killed leaves semaphores in the node's shared memory, which Apptainer will not replace by one of the job's own.
# Removed are those made since the job began, where the user has no other process that could use them.
sweep_shared_memory() {
    local _
    if [ -z "$scratch" ]; then return; fi
    for _ in 1 2 3; do
        if is_alone; then
            find "${BOUCHET_SHM:-/dev/shm}" -maxdepth 1 -type f -user "$EUID" -newer "$scratch/alive" \
                \( -name 'sem.*' -o -name 'psm_*' -o -name 'nccl-*' -o -name 'torch_*' \) -delete 2> /dev/null
            return
        fi
        sleep 0.2
    done
}
# Whether nothing of the user runs here but this script. What is dead already may wait for a slow parent.
is_alone() {
    local pid parent state
    ps -U "$EUID" -o pid=,ppid=,stat= > "$scratch/processes" || return 1
    while read -r pid parent state; do
        if [ "$pid" != "$$" ] && [ "$parent" != "$$" ] && [ "${state#Z}" = "$state" ]; then return 1; fi
    done < "$scratch/processes"
}

# SIGTERM for vLLM itself, not for its engine: it finishes the answers under way within --shutdown-timeout.
end_vllm() {
    local vllm_pid=''
    if [ -s "$scratch/vllm.pid" ]; then vllm_pid=$(< "$scratch/vllm.pid"); fi
    kill -TERM "${vllm_pid:-$container_pid}" 2>/dev/null
}

set_up_node() {
    local path
    if [ ! -s "$job_dir/setup.sh" ]; then return; fi
    step "setting up the node"
    # `module` is a shell function of the login profile
    set +u
    path=$PATH
    # shellcheck disable=SC1091
    if [ -r /etc/profile ]; then . /etc/profile > /dev/null 2>&1; fi
    PATH=$path:$PATH
    # shellcheck disable=SC1091
    . "$job_dir/setup.sh" || finish refused 1 "the site's setup lines failed (setup_lines in the site file)"
    set -u
}

# A large image is hashed within minutes. Disks that give nothing for so long must not hold the GPUs any longer.
prepare_s=${BOUCHET_PREPARE_S:-1800}

# Checks the image and the model. Sets apptainer, image, model, cache, port, listen, binds, arguments and key.
prepare_node() {
    local prepared field bind
    step "checking the image"
    if ! command -v python3 > /dev/null; then
        finish refused 1 "there is no python3 on $node: setup_lines of the site file may load one (module load ...)"
    fi
    prepared=$(timeout -s KILL "$prepare_s" python3 "$scripts/job_files.py" prepare "$job_dir" "$scratch") || {
        if [ "$?" = 137 ]; then prepared="image and model could not be read on $node within $((prepare_s / 60)) min: its \
disks do not answer; launch again elsewhere"; fi
        finish refused 1 "${prepared:-the job could not be prepared; its log says why}"
    }
    mapfile -t field <<< "$prepared"
    apptainer=${field[0]} image=${field[1]} model=${field[2]} cache=${field[3]} port=${field[4]} listen=${field[5]}
    if ! command -v "$apptainer" > /dev/null; then
        finish refused 1 "there is no $apptainer on $node: see apptainer and setup_lines in the site file"
    fi
    binds=()
    for bind in "${field[@]:6}"; do binds+=(--bind "$bind"); done
    mapfile -t arguments < "$scratch/vllm.args"
    IFS= read -r key < "$job_dir/key" ||
        finish refused 1 "the job's key file $job_dir/key cannot be read on $node; launch again"
}

# Starts vLLM in the container. ADDRESS: this node's own one, where the job has several; the rest is for `vllm serve`.
# What it is given is written down first: the record shows it.
start_vllm() { # ADDRESS ARGUMENT...
    local address=$1
    shift
    step "starting the container"
    mkdir -p "$scratch/tmp" "$cache"
    jobfile environment "$job_dir" "$address" > "$scratch/environment"
    # shellcheck disable=SC2016  # $$ and $@ are the inner shell's
    container=("$apptainer" exec --nv --cleanenv --no-home --no-mount cwd --pwd /tmp
        --bind "$scratch/tmp:/tmp" --bind "$scratch:/bouchet/job" --bind "$scripts:/bouchet/remote:ro"
        --bind "$cache:/bouchet/cache" "${binds[@]}" "$image"
        /bin/sh -c 'echo "$$" > /bouchet/job/vllm.pid; exec "$@"' vllm-serve
        vllm serve "$model" "$@" "${arguments[@]}")
    printf '%s\0' "${container[@]}" > "$scratch/container"
    apart in_container
    container_pid=$started
    kernels=("${job_dir%/jobs/*}/logs/heartbeat-$SLURM_JOB_ID.json" "$cache" "$SLURM_JOB_ID-$node")
    keep_kernels_when_ready
}

# In a subshell of its own: what it exports reaches no other program of the job.
in_container() {
    local pair
    # Into the container through the environment: argv is for everybody to see.
    while IFS= read -r -d '' pair; do
        export "APPTAINERENV_$pair"
    done < "$scratch/environment"
    export APPTAINERENV_VLLM_API_KEY=$key
    # What the login environment sets for Apptainer would reach into the container as well.
    unset APPTAINER_BIND APPTAINER_BINDPATH SINGULARITY_BIND SINGULARITY_BINDPATH
    exec "${container[@]}" < /dev/null
}

# What vLLM compiles is kept for later jobs: when it answers, and once more in the end.
keep_kernels_when_ready() {
    if [ -n "$keeper_pid" ]; then return; fi
    apart python3 "$scripts/kernel_cache.py" when-ready "${kernels[@]}"
    keeper_pid=$started
}
keep_kernels() { # SECONDS
    if [ -z "$keeper_pid" ]; then return; fi
    kill -TERM -- "-$keeper_pid" 2>/dev/null
    wait "$keeper_pid" 2>/dev/null
    timeout -k 1 "$1" python3 "$scripts/kernel_cache.py" keep "${kernels[@]}"
}

# Waits for vLLM's end; its status is in $status. A trap ends `wait` early; vLLM may still be finishing answers.
wait_for_vllm() {
    status=0
    while :; do
        wait "$container_pid"
        status=$?
        if ! kill -0 "$container_pid" 2>/dev/null; then break; fi
    done
}
