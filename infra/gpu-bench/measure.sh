#!/bin/sh
# Measure on a GPU node, step by step:  infra/gpu-bench/measure.sh WORK_DIR OUT_DIR STEP...
# Steps: models warm loops guide defaults lengths tune preflight bench batch shared start little-cache baseline loop-cost oom-start oom-run
# equivalence strict strict-cost split adapters adapter-cost reload reload-cost masks mask-cost experts expert-parallel.
# Run it from the repository's root. WORK_DIR holds the runs, OUT_DIR the results. Two of these can run side by side with
# directories and CUDA_VISIBLE_DEVICES of their own, and share the models of one MODELS directory; those that measure no
# speed also on one GPU, with a HARVEST_LOCK_DIR each, and SMALL and KV_BYTES for what each takes of the memory. SHAPE is the
# model of all steps but those of checkpoints and experts; SPLIT, SPLIT_SAMPLES and GPUS are for the step split.
here=$(dirname "$0")
. "$here/steps.sh"
small="s/^gpu_memory_utilization.*/gpu_memory_utilization = ${SMALL:-0.2}/"
eager='s/^enforce_eager.*/enforce_eager = true/'
little="s/^\[expect\]/[engine.vllm]\nkv_cache_memory_bytes = ${KV_BYTES:-4294967296}\n&/"
generate="--runs-dir $work/runs --lengths $lengths --max-tokens $max_tokens"
for wanted in "$@"; do
    case $wanted in
    models)
        step model-0.5b python3 $here/make_model.py --shape 0.5b --out "$models/0.5b"
        step "model-$shape" python3 "$here/make_model.py" --shape "$shape" --out "$model"
        ;;
    warm) # so that nothing that is compared below starts cold
        kinds=
        for kind in ${WARM:-auto limit serve ray strict lora}; do
            [ $kind = strict ] && kind=$(variant warm-strict "$profile-strict")
            [ $kind = lora ] && kind=$(variant warm "$profile")+lora
            kinds="$kinds $kind"
        done
        step warm python3 $here/warm.py "$model" "$max_tokens" $kinds
        ;;
    loops) # the loops that it replaces, on as many questions as give their rate
        step loops-baseline $harvest bench --model "$model" --questions "${BASELINE_QUESTIONS:-24}" $generate --top-logprobs 0 --only baseline --repeats 1
        keep_bench loops-baseline
        step loops-script $harvest bench --model "$model" --questions "${SCRIPT_QUESTIONS:-256}" $generate --top-logprobs 0 --only script --repeats 1
        keep_bench loops-script
        ;;
    guide) # the run at its defaults, by questions
        for count in ${GUIDE_QUESTIONS:-100 500 2000}; do
            step guide-$count $harvest run --model "$model" --questions $count $generate --name guide-$count --json
            keep_logs guide-$count guide-$count-engine
            python3 $here/rate.py "$work"/runs/guide-$count-*/telemetry.parquet >"$out/guide-$count-rate.txt" 2>&1
        done
        ;;
    defaults) # the run at its defaults beside vLLM's own limit and other tools
        for some in ${CONTESTANTS:-limit,features,pipeline,vllm-serve,datatrove ray}; do
            step defaults-$some $harvest bench --model "$model" --questions "$questions" $generate --top-logprobs 0 --repeats 1 --only $some
            keep_bench defaults-$some
        done
        ;;
    lengths) # the same with prompts of about 300 tokens, and with completions of 400 on average
        python3 $here/long_questions.py "$work/long.jsonl"
        step lengths-prompts $harvest bench --model "$model" --dataset "$work/long.jsonl" --questions "$questions" $generate --top-logprobs 0 --repeats 1 --only limit,pipeline
        keep_bench lengths-prompts
        step lengths-completions $harvest bench --model "$model" --questions "$questions" --runs-dir "$work/runs" --lengths lognormal:340:0.57 --max-tokens 1600 --top-logprobs 0 --repeats 1 --only limit,pipeline
        keep_bench lengths-completions
        ;;
    tune)
        step tune $harvest tune --model "$model" --questions 2000 $generate --minutes "${MINUTES:-2}" --save "$out/tuned.toml" --force --json
        ;;
    preflight)
        chosen=$(variant preflight "$profile")
        step preflight $harvest preflight --profile "$chosen" --model "$model" --smoke --runs-dir "$work/runs"
        step plan $harvest plan --profile "$chosen" --model "$model" --questions "$questions" --runs-dir "$work/runs" --max-tokens "$max_tokens"
        ;;
    bench)
        step bench $harvest bench --profile "$(variant bench "$profile")" --model "$model" --questions "$questions" $generate \
            --only "${CONTESTANTS:-limit,features,pipeline}" ${PEERS:+--peers} --repeats "${REPEATS:-1}" --name seven
        grep -h "KV cache size" "$work"/runs/bench-*/*/*/logs/*.log >"$out/kv-tokens.txt" 2>/dev/null
        cp "$work"/runs/bench-*/bench.json "$out/bench.json" 2>/dev/null
        for log in "$work"/runs/bench-*/repeat-*/*/contestant.log; do
            [ -f "$log" ] && { echo "--- $log"; tail -60 "$log"; }
        done >"$out/contestants.log"
        ;;
    batch) # the chosen question batch beside a stated one: tokens/s, steps in a CUDA graph, and the memory that vLLM logs
        for size in auto "${STATED_BATCH:-32}"; do
            step batch-$size $harvest run --profile "$(variant batch-$size "$profile")" --model "$model" --questions "$questions" $generate \
                --question-batch-size $size --name batch-$size --json
            keep_logs batch-$size batch-$size-engine
            cp "$work"/runs/batch-$size-*/telemetry.parquet "$out/batch-$size-telemetry.parquet"
            cp "$work"/runs/batch-$size-*/preflight.json "$out/batch-$size-preflight.json"
        done
        ;;
    shared) # one, two and three engines on one GPU, each with a chosen batch: the rate once all are at work, and their memory
        # they start one after the other, so that the work must outlast the starts
        for engines in 1 2 3; do
            chosen=$(variant shared-$engines "$profile" -e "s/^description/replicas = $engines\nreplicas_per_gpu = $engines\n&/")
            step shared-$engines $harvest run --profile "$chosen" --model "$model" --questions "$questions" $generate \
                --samples-per-arm "${SHARED_SAMPLES:-6}" --question-batch-size auto --name shared-$engines --json
            keep_logs shared-$engines shared-$engines-engine
            cp "$work"/runs/shared-$engines-*/telemetry.parquet "$out/shared-$engines-telemetry.parquet"
            cp "$work"/runs/shared-$engines-*/preflight.json "$out/shared-$engines-preflight.json"
            cp "$work"/runs/shared-$engines-*/state/generation.json "$out/shared-$engines-generation.json"
            python3 $here/rate.py "$out/shared-$engines-telemetry.parquet" >"$out/shared-$engines-rate.txt" 2>&1
        done
        ;;
    start) # the whole command with empty caches, with those that it filled, and with those that preflight --warm filled
        asked="--profile $(variant start "$profile") --model $model --questions $questions $generate"
        cached="env -u VLLM_CACHE_ROOT -u TRITON_CACHE_DIR -u TORCHINDUCTOR_CACHE_DIR -u FLASHINFER_WORKSPACE_BASE -u CUDA_CACHE_PATH HARVEST_CACHE_DIR=$work/caches"
        rm -rf "$work/caches"
        for caches in empty filled warmed; do
            [ $caches = warmed ] && rm -rf "$work/caches" && step start-preflight $cached $harvest preflight --warm $asked --json
            step start-$caches $cached $harvest run $asked --name start-$caches --json
            grep -E '"start_kind"|^    "(start_seconds|tokens_per_second)"' "$out/start-$caches.txt"
            keep_logs start-$caches start-$caches-engine
        done
        du -s "$work/caches"/* >"$out/start-caches.txt"
        ;;
    little-cache) # a chosen batch that must rise, and fall when sequences are preempted
        chosen=$(variant little-cache "$profile" -e "s/^gpu_memory_utilization.*/gpu_memory_utilization = ${LITTLE:-0.145}/")
        step little-cache $harvest run --profile "$chosen" --model "$model" --questions 300 --runs-dir "$work/runs" \
            --lengths lognormal:200:0.8 --max-tokens 900 --name little-cache --json
        cp "$work"/runs/little-cache-*/telemetry.parquet "$out/little-cache-telemetry.parquet"
        ;;
    baseline) # questions do not affect each other in this loop, so a few of them give its rate
        step baseline $harvest bench --profile "$(variant bench "$profile")" --baseline-profile "$(variant base "$profile-baseline")" \
            --model "$model" --questions "${BASELINE_QUESTIONS:-24}" $generate --only baseline --repeats 1 --name base
        ;;
    loop-cost) # with the engine core in the replica's process, and in one of its own
        for own in 0 1; do
            export VLLM_ENABLE_V1_MULTIPROCESSING=$own
            step loop-cost-$own python3 $here/loop_cost.py "$(variant loop-cost "$profile")" "$model" "$questions" "$max_tokens" "$lengths" "${REPEATS:-2}"
        done
        unset VLLM_ENABLE_V1_MULTIPROCESSING
        ;;
    oom-start | oom-run) # another process takes the rest of the GPU while the engine starts, or once it generates
        python3 $here/take_memory.py "$work/runs/$wanted" "${wanted#oom-}" >"$out/$wanted-neighbour.txt" 2>&1 &
        neighbour=$!
        step $wanted $harvest run --profile "$(variant $wanted "$profile" -e "$eager")" --model "$models/0.5b" --questions 64 $generate \
            --top-logprobs 20 --name $wanted --json
        kill $neighbour 2>/dev/null
        keep_logs $wanted $wanted-engine
        ;;
    equivalence | strict) # the trained demo model sampled, and a larger random one greedily, one question at a time or a chosen batch
        [ $wanted = strict ] && from=$profile-strict || from=$profile
        chosen=$(variant $wanted "$from" -e "$eager" -e "$small" -e "$little")
        for model in ${COMPARED:-demo 0.5b}; do
            [ $model = demo ] && asked="--model demo --questions 64 --temperature 0.7" || asked="--model $models/0.5b --questions 24 --temperature 0"
            for batch in 1 auto; do
                step $wanted-$model-$batch $harvest run --profile "$chosen" $asked --question-batch-size $batch \
                    --runs-dir "$work/runs" --max-tokens 128 --top-logprobs 20 --name $wanted-$model-$batch --json
                keep_logs $wanted-$model-$batch $wanted-$model-$batch-engine
            done
            step $wanted-$model-verdict $harvest compare "$work"/runs/$wanted-$model-1-* "$work"/runs/$wanted-$model-auto-*
        done
        ;;
    strict-cost) # tokens/s of the default and the strict profile, with CUDA graphs
        for kind in ${KINDS:-default strict}; do
            [ $kind = strict ] && from=$profile-strict || from=$profile
            step cost-$kind $harvest run --profile "$(variant cost-$kind "$from")" --model "$model" --questions "$questions" $generate \
                --name cost-$kind --json
            keep_logs cost-$kind cost-$kind-engine
        done
        ;;
    split) # all GPUs: what the profile "auto" chooses, then one engine per GPU, then one engine over all
        gpus=${GPUS:-2}
        for kind in ${SPLIT:-auto replicas tensor-parallel}; do
            case $kind in
            auto) chosen=auto ;;
            replicas) how="s/^tensor_parallel_size.*/tensor_parallel_size = 1/; s/^description/replicas = $gpus\n&/" ;;
            tensor-parallel) how="s/^tensor_parallel_size.*/tensor_parallel_size = $gpus/" ;;
            esac
            [ $kind = auto ] || chosen=$(variant $kind "$profile" -e "$how" -e "s/^gpu_count.*/gpu_count = $gpus/")
            name=split-$shape-$kind
            step $name $harvest run --profile "$chosen" --model "$model" --questions "$questions" $generate --samples-per-arm "${SPLIT_SAMPLES:-6}" --name $name --json
            keep_rate $name
        done
        ;;
    adapters) # the demo model and two adapters in the same batches, each checked by transformers with the merged model
        mkdir -p "$work/adapters"
        for one in a b; do
            [ -d "$work/adapters/$one" ] || python3 $here/make_adapter.py profiles/demo/model "$work/adapters/$one" --seed $(printf %d "'$one") --merged "$work/merged-$one"
        done
        chosen=$(variant adapters "$profile" -e "$eager" -e "$small")
        step adapters $harvest run --profile "$chosen" --questions 64 --runs-dir "$work/runs" --model demo --adapter "$work/adapters/*" --json
        keep_logs adapters-demo adapters-engine
        for one in a b; do
            for other in a b; do
                step adapters-$one-merged-$other $harvest mismatch "$work"/runs/adapters-demo-demo-$one-* --model "$work/merged-$other"
            done
        done
        ;;
    adapter-cost) # as many rollouts of the 7B shape alone, and of it and two adapters in the same batches
        for name in c d; do
            [ -d "$work/cost/$name" ] || python3 $here/make_adapter.py "$model" "$work/cost/$name" --seed $(printf %d "'$name")
        done
        chosen=$(variant adapter-cost "$profile")
        step adapter-cost-none $harvest run --profile "$chosen" --model "$model" --questions "$questions" $generate --name adapter-cost-none --json
        step adapter-cost-two $harvest run --profile "$chosen" --model "$model" --adapter "$work/cost/*" --questions $((questions / 3)) $generate --json
        keep_logs adapter-cost-7b adapter-cost-two-engine
        for kind in none 7b; do
            python3 $here/rate.py "$work"/runs/adapter-cost-$kind-*/telemetry.parquet >"$out/adapter-cost-$kind-rate.txt" 2>&1
        done
        ;;
    reload) # three checkpoints in one engine with batch-invariant kernels, beside a cold start of each
        for seed in 1 2 3; do
            [ -d "$work/checkpoints/step-$seed" ] || python3 $here/make_model.py --shape 0.5b --seed $seed --out "$work/checkpoints/step-$seed"
        done
        chosen=$(variant reload "$profile-strict" -e "$eager" -e "$small")
        asked="--profile $chosen --questions 24 --runs-dir $work/runs --max-tokens 64"
        step reload $harvest run $asked --model "$work/checkpoints/step-*" --json
        keep_logs reload reload-engine
        for seed in 1 2 3; do
            step cold-$seed $harvest run $asked --model "$work/checkpoints/step-$seed" --name cold-$seed --runs-dir "$work/cold" --json
            step reload-verdict-$seed python3 $here/same_rollouts.py "$work"/runs/reload-step-$seed-* "$work"/cold/cold-$seed-*
        done
        ;;
    reload-cost) # two checkpoints of the 7B shape: seconds of a reload; the cold start of the second is in its log
        [ -d "$work/seven/step-2" ] || { mkdir -p "$work/seven" && ln -s "$model" "$work/seven/step-1" && python3 $here/make_model.py --shape 7b --seed 2 --out "$work/seven/step-2"; }
        chosen=$(variant reload-cost "$profile")
        step reload-cost $harvest run --profile "$chosen" --model "$work/seven/step-*" --questions 100 $generate --json
        keep_logs reload-cost-step reload-cost-engine
        step reload-cost-cold $harvest run --profile "$chosen" --model "$work/seven/step-2" --questions 100 $generate --name reload-cost-cold --runs-dir "$work/cold" --json
        ;;
    masks) # the mask of each token, checked by transformers' logprobs over it
        chosen=$(variant masks "$profile" -e "$eager" -e "$small")
        for kind in without with; do
            [ $kind = with ] && flag=--sampling-mask || flag=
            step masks-$kind $harvest run --profile "$chosen" --model demo --questions 64 --runs-dir "$work/runs" --temperature 1 --samples-per-arm 2 --top-k 8 --top-p 0.9 $flag --name masks-$kind --json
            keep_logs masks-$kind masks-$kind-engine
            step mismatch-$kind $harvest mismatch "$work"/runs/masks-$kind-*
        done
        step masks-same python3 $here/same_rollouts.py "$work"/runs/masks-without-* "$work"/runs/masks-with-*
        step masks-export $harvest export "$work"/runs/masks-with-* --to prime-rl --out "$work/masks-export"
        ;;
    mask-cost) # top-k 20 with the 7B shape: without masks, and with them
        chosen=$(variant mask-cost "$profile")
        for kind in ${KINDS:-without with}; do
            [ $kind = with ] && flag=--sampling-mask || flag=
            step mask-cost-$kind $harvest run --profile "$chosen" --model "$model" --questions "$questions" $generate --top-k 20 $flag --name mask-cost-$kind --json
        done
        ;;
    experts) # routed experts, beside those that transformers computes, and what storing them costs
        [ -d "$models/moe" ] || python3 $here/make_model.py --shape 30b-moe --layers "${MOE_LAYERS:-6}" --out "$models/moe"
        chosen=$(variant experts "$profile" -e "$small")
        for kind in without with; do
            [ $kind = with ] && flag=--routed-experts || flag=
            step experts-$kind $harvest run --profile "$chosen" --model "$models/moe" --questions 100 $generate $flag --name experts-$kind --json
            keep_logs experts-$kind experts-$kind-engine
        done
        step experts-verdict python3 $here/check_routes.py "$work"/runs/experts-with-* "$models/moe"
        step experts-export $harvest export "$work"/runs/experts-with-* --to prime-rl --out "$work/experts-export"
        ;;
    expert-parallel) # the same model on two GPUs: experts split, layers split, and each layer's tensors split
        [ -d "$models/moe" ] || python3 $here/make_model.py --shape 30b-moe --layers "${MOE_LAYERS:-6}" --out "$models/moe"
        chosen=$(variant expert-parallel "$profile" -e "s/^gpu_count.*/gpu_count = 2/" -e "$small")
        for how in "tensor_parallel_size=2" "tensor_parallel_size=2 enable_expert_parallel=true" "pipeline_parallel_size=2"; do
            name=moe-$(echo "$how" | tr -dc 'a-z' | cut -c1-40)
            step $name $harvest run --profile "$chosen" $(for one in $how; do echo "--engine $one"; done) --model "$models/moe" --questions 100 $generate --name $name --json
            keep_logs $name $name-engine
        done
        ;;
    *) echo "unknown step $wanted" && exit 2 ;;
    esac
done
