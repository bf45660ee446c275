#!/bin/sh
# What the steps of measure.sh and two_nodes.sh share; they source it with WORK_DIR, OUT_DIR and the steps in "$@".
set -u
work=$1
out=$2
shift 2
harvest="python3 -m flows.commands.cli"
profile=${PROFILE:-h200x1}
models=${MODELS:-$work}
shape=${SHAPE:-7b}
model=$models/$shape
questions=${QUESTIONS:-500}
lengths=${LENGTHS:-lognormal:80:0.6}
max_tokens=${MAX_TOKENS:-384}
# vLLM samples with FlashInfer unless told otherwise, and fails where that is not installed
python3 -c 'import flashinfer' 2>/dev/null || export VLLM_USE_FLASHINFER_SAMPLER=0
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 PYTHONUNBUFFERED=1
mkdir -p "$work/runs" "$out"

step() { # name command...: run the command, keep its output, print its exit code and duration
    name=$1
    shift
    echo "== $name: $*"
    began=$(date +%s)
    timeout --kill-after 30 "${STEP_SECONDS:-3600}" "$@" >"$out/$name.txt" 2>"$out/$name.log"
    echo "   $name: exit code $?, $(($(date +%s) - began)) s"
}

variant() { # name profile expression...: write the profile for this GPU, changed by the sed expressions; print its path
    name=$1
    from=profiles/$2.toml
    shift 2
    set -- -e "s/^name = .*/name = \"$name\"/" -e '/^baseline/d' -e "s/^gpu_name.*/gpu_name = \"${GPU_NAME:-H200}\"/" \
        -e "s/^gpu_memory_gib.*/gpu_memory_gib = ${GPU_GIB:-139}/" "$@"
    sed "$@" "$from" >"$work/$name.toml"
    echo "$work/$name.toml"
}

keep_logs() { # run name: keep the ends of the run's engine logs
    for log in "$work/runs/$1"*/logs/*.log "$work/runs/$1"*/logs/node-*/*.log; do
        [ -f "$log" ] && { echo "--- ${log##*/}"; grep -vE '^\s*$' "$log" | tail -60; }
    done >"$out/$2.log" 2>/dev/null
}

keep_bench() { # name: keep the result of the newest benchmark, and the ends of its contestants' logs
    newest=$(ls -td "$work"/runs/bench-*/ | head -1)
    cp "$newest/bench.json" "$out/$1.json"
    for log in "$newest"/repeat-*/*/contestant.log; do
        [ -f "$log" ] && { echo "--- $log"; tail -60 "$log"; }
    done >"$out/$1-contestants.log"
}


keep_rate() { # run: keep the ends of its engine logs, its telemetry, and its rate once all engines were at work
    keep_logs "$1" "$1-engine"
    cp "$work/runs/$1"-*/telemetry.parquet "$out/$1-telemetry.parquet"
    python3 "$here/rate.py" "$out/$1-telemetry.parquet" >"$out/$1-rate.txt" 2>&1
    tail -2 "$out/$1-rate.txt"
}
