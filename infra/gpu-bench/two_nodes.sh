#!/bin/sh
# Two nodes of a Ray cluster on one machine with two GPUs, one for each:  infra/gpu-bench/two_nodes.sh WORK_DIR OUT_DIR STEP...
# Steps: replicas (an engine on each node), pipeline-parallel and tensor-parallel (one engine over both), killed (the flow
# of the latter is killed, and goes on). Like measure.sh, from the repository's root; it ends every Ray of the machine.
here=$(dirname "$0")
. "$here/steps.sh"
ray="python3 -m ray.scripts.scripts"
# the network of the machine needs no authentication, but other users of it may be there
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_memory_monitor_refresh_ms=0

start_node() { # number gpus option...: start a node that has the first of the GPUs
    number=$1
    gpus=$2
    shift 2
    CUDA_VISIBLE_DEVICES=$gpus HARVEST_NODE=node-$number HARVEST_HOME=$work/node-$number $ray start "$@" \
        --node-ip-address=127.0.0.1 --num-gpus="${RAY_GPUS:-1}" --num-cpus=8 --object-store-memory=2000000000 \
        --min-worker-port=1${number}100 --max-worker-port=1${number}999 --disable-usage-stats >"$out/ray-$number.log" 2>&1
}

on_gpus() { # how many processes of Ray are on the GPUs
    for pid in $(nvidia-smi --query-compute-apps=pid --format=csv,noheader); do
        tr '\0' ' ' <"/proc/$pid/cmdline"
        echo
    done 2>/dev/null | grep -c ray::
}

left() { # wait until they have ended; print for how long, how many are left, and the memory in use
    waited=0
    while [ "$waited" -lt 60 ] && [ "$(on_gpus)" != 0 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    echo "   after $waited s on the GPUs: $(on_gpus) processes, $(nvidia-smi --query-gpu=memory.used --format=csv,noheader | tr '\n' ' ')"
}

generates() { # whether a node has rollouts of the run
    find "$work"/node-*/nodes -path "*/$name-*/journal/*" -size +0 2>/dev/null | grep -q .
}

trap '$ray stop --force >/dev/null 2>&1' EXIT
trap 'exit 1' TERM
start_node 0 0,1 --head --port=6379 --include-dashboard=false
start_node 1 1,0 --address=127.0.0.1:6379
small="s/^gpu_memory_utilization.*/gpu_memory_utilization = ${SMALL:-0.95}/"
for wanted in "$@"; do
    # vLLM takes two nodes of one machine for one, and would exchange tensors as on one
    over="nodes_per_replica = 2\n[engine.vllm]\ndisable_custom_all_reduce = true\n${KV_BYTES:+kv_cache_memory_bytes = $KV_BYTES\n}&"
    case $wanted in
    replicas) how= ;;
    tensor-parallel | killed) how="s/^tensor_parallel_size.*/tensor_parallel_size = 2/; s/^\[expect\]/$over/" ;;
    pipeline-parallel) how="s/^tensor_parallel_size.*/pipeline_parallel_size = 2/; s/^\[expect\]/$over/" ;;
    *) echo "unknown step $wanted" && exit 2 ;;
    esac
    name=nodes-$shape-$wanted
    chosen=$(variant "nodes-$wanted" "$profile" -e "$small" -e "$how")
    set_up="--nodes 2 --ray 127.0.0.1:6379 --profile $chosen --model $model --questions $questions --runs-dir $work/runs"
    asked="$set_up --lengths $lengths --max-tokens $max_tokens --samples-per-arm ${SPLIT_SAMPLES:-6} --name $name --json"
    if [ "$wanted" = killed ]; then
        $harvest run $asked >"$out/$name-before.txt" 2>"$out/$name-before.log" &
        flow=$!
        until generates || ! kill -0 $flow; do sleep 1; done
        echo "   $(on_gpus) processes on the GPUs, and the flow is killed"
        kill -9 $flow
        left
    fi
    step "$name" $harvest run $asked
    left
    keep_rate "$name"
done
