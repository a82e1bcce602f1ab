#!/bin/bash
# The vLLM of one further node of a job: srun starts it, one task a node (start_others in vllm-serve.sbatch).
#
#   rank.sh JOB_DIR SCRIPTS_DIR NODES ADDRESS MASTER_PORT RPC_PORT
#
# Standard output: what vLLM prints, with the node's name in front. Standard error: one line that reports the end,
# `bouchet-rank: KIND SENTENCE`; srun brings it to the first node sooner than a shared disk would.
# shellcheck disable=SC2317  # shellcheck does not see that traps call functions
set -u -o pipefail
umask 077

job_dir=$1 scripts=$2 nodes=$3 head_address=$4 master_port=$5 rpc_port=$6
rank=$((${SLURM_PROCID:?} + 1))
stopped=''
# shellcheck source-path=SCRIPTDIR source=node.sh
. "$scripts/node.sh"
exec 3>&2 > >(trap '' TERM INT; exec sed -u "s/^/$node: /") 2>&1

finish() { # KIND STATUS SENTENCE...
    local kind=$1 status=$2
    shift 2
    printf 'bouchet-rank: %s on %s: %s\n' "$kind" "$node" "$*" >&3
    exit "$status"
}
on_term() {
    if [ -n "$stopped" ]; then return; fi
    stopped=yes
    if [ -z "$container_pid" ]; then exit 0; fi
    end_vllm
    run_in_group kill_container_soon
}
# The first node's vLLM has ended or is about to, and this one cannot serve without it.
kill_container_soon() {
    sleep 5
    kill_container
}
trap 'exit 0' TERM

trap 'save_kernels 3; clean_up' EXIT
make_scratch
trap on_term TERM

# vLLM refuses --api-server-count together with --headless.
drop_server_count() {
    local argument before='' kept=()
    for argument in "${arguments[@]}"; do
        if [ "$before" != --api-server-count ]; then
            case $argument in --api-server-count | --api-server-count=*) ;; *) kept+=("$argument") ;; esac
        fi
        before=$argument
    done
    arguments=("${kept[@]+"${kept[@]}"}")
}

set_up_node
prepare_node
drop_server_count
address=$(vllm_job address "$head_address") || finish refused 1 "no route to the first node ($head_address)"
start_vllm "$address" --nnodes "$nodes" --node-rank "$rank" --master-addr "$head_address" \
    --master-port "$master_port" --data-parallel-rpc-port "$rpc_port" --headless
wait_for_vllm
if [ -n "$stopped" ]; then exit 0; fi
finish vllm_exited "$((status == 0 ? 1 : status))" "vLLM (rank $rank of $nodes) exited with status $status"
