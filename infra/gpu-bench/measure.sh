#!/bin/sh
# Everything that is measured on a GPU node, step by step:  infra/gpu-bench/measure.sh WORK_DIR OUT_DIR STEP...
# Steps: models preflight bench baseline oom-start oom-run equivalence strict. Run from the repository's root.
# WORK_DIR holds models and runs; what is worth keeping goes to OUT_DIR.
set -u
work=$1
out=$2
shift 2
here=infra/gpu-bench
harvest="python3 -m flows.cli"
profile=${PROFILE:-h200x1}
questions=${QUESTIONS:-500}
lengths=${LENGTHS:-lognormal:100:0.6}
max_tokens=${MAX_TOKENS:-512}
# vLLM 0.25.1 samples with FlashInfer unless told otherwise, and fails where that is not installed
python3 -c 'import flashinfer' 2>/dev/null || export VLLM_USE_FLASHINFER_SAMPLER=0
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 PYTHONUNBUFFERED=1
mkdir -p "$work/runs" "$out"

step() { # name command...: runs it, keeps its output, says how long it took
    name=$1
    shift
    echo "== $name: $*"
    began=$(date +%s)
    "$@" >"$out/$name.txt" 2>"$out/$name.log"
    echo "   exit code $?, $(($(date +%s) - began)) s"
}

keep_logs() { # run name: what its engines said
    for log in "$work/runs/$1"*/logs/*.log; do
        [ -f "$log" ] && { echo "--- ${log##*/}"; grep -vE '^\s*$' "$log" | tail -60; }
    done >"$out/$2.log" 2>/dev/null
}

generate="--runs-dir $work/runs --lengths $lengths --max-tokens $max_tokens"
for wanted in "$@"; do
    case $wanted in
    models)
        step model-7b python3 $here/make_model.py --shape 7b --out "$work/7b"
        step model-0.5b python3 $here/make_model.py --shape 0.5b --out "$work/0.5b"
        ;;
    preflight)
        step preflight $harvest preflight --profile "$profile" --model "$work/7b" --smoke --runs-dir "$work/runs"
        step plan $harvest plan --profile "$profile" --model "$work/7b" --questions "$questions" --runs-dir "$work/runs" --max-tokens "$max_tokens"
        ;;
    bench)
        step bench $harvest bench --profile "$profile" --model "$work/7b" --questions "$questions" $generate \
            --only "${CONTESTANTS:-script,limit,pipeline}" --repeats "${REPEATS:-1}" --name seven
        grep -h "KV cache size" "$work"/runs/bench-*/*/*/logs/*.log >"$out/kv-tokens.txt" 2>/dev/null
        cp "$work"/runs/bench-*/bench.json "$out/bench.json" 2>/dev/null
        ;;
    baseline) # the loop has no effect across questions, so that a few of them give its rate
        step baseline $harvest bench --profile "$profile" --model "$work/7b" --questions "${BASELINE_QUESTIONS:-24}" $generate \
            --only baseline --repeats 1 --name base
        ;;
    oom-start | oom-run) # a neighbour takes the rest of the GPU while the engine starts, or once it generates
        sed -e "s/^name = .*/name = \"$wanted\"/" -e '/^baseline/d' -e 's/^enforce_eager.*/enforce_eager = true/' \
            profiles/$profile.toml >"$work/$wanted.toml"
        python3 $here/take_memory.py "$work/runs/$wanted" "${wanted#oom-}" >"$out/$wanted-neighbour.txt" 2>&1 &
        neighbour=$!
        step $wanted $harvest run --profile "$work/$wanted.toml" --model "$work/0.5b" --questions 64 $generate --top-logprobs 20 --name $wanted --json
        kill $neighbour 2>/dev/null
        keep_logs $wanted $wanted-engine
        ;;
    equivalence | strict)
        [ "$wanted" = strict ] && chosen=$profile-strict || chosen=$profile
        sed -e "s/^name = .*/name = \"$wanted\"/" -e '/^baseline/d' -e 's/^enforce_eager.*/enforce_eager = true/' \
            profiles/$chosen.toml >"$work/$wanted.toml"
        for batch in 1 16; do
            step $wanted-$batch $harvest run --profile "$work/$wanted.toml" --model "$work/0.5b" --questions 24 --question-batch-size $batch \
                --runs-dir "$work/runs" --max-tokens 128 --top-logprobs 20 --temperature "${TEMPERATURE:-0.7}" --name $wanted-$batch --json
        done
        step $wanted-verdict $harvest compare "$(ls -d "$work"/runs/$wanted-1-*)" "$(ls -d "$work"/runs/$wanted-16-*)"
        ;;
    *) echo "unknown step $wanted" && exit 2 ;;
    esac
done
