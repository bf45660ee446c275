#!/bin/bash
# A collection over the nodes of a SLURM job, which a Ray cluster joins for as long as it takes. From a checkout that
# all nodes see, with its environment in .venv; the options are those of harvest run:
#   sbatch --nodes=4 --gpus-per-node=8 infra/slurm/collect.sh --profile h100x8 --model Qwen/Qwen2.5-72B-Instruct
# The same command again goes on where a job stopped. Credentials belong in the environment of sbatch.
#SBATCH --job-name=rollout-harvest
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# ray symmetric-run ends every Ray process on the node when it ends
#SBATCH --exclusive
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH"
# other users of the cluster reach these machines too
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# engines may take most of the memory; Ray would end the actor above them
export RAY_memory_monitor_refresh_ms=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# scratch directories of the nodes, not in a home that they share
export HARVEST_HOME="${HARVEST_HOME:-${TMPDIR:-/tmp}/rollout-harvest-$(id -un)}"

# this script runs on the job's first node, where ray symmetric-run then starts the head and the command; RAY_HEAD names
# its address in the network that the nodes share, if that is not the first
head=${RAY_HEAD:-$(hostname -I | cut -d ' ' -f 1)}
# ray symmetric-run exits with 0 when Ray did not start and when it was interrupted
exit_code=$(mktemp)
trap 'rm -f "$exit_code"' EXIT

# a node that fails does not end the others: --wait and --kill-on-bad-exit
# shellcheck disable=SC2086,SC2016
srun --ntasks-per-node=1 --export=ALL --wait=0 --kill-on-bad-exit=0 \
    ray symmetric-run --address="$head:6379" --num-cpus=8 --disable-usage-stats ${RAY_OPTIONS:-} \
    -- bash -c '"$@"; echo $? > "$0"' "$exit_code" \
    harvest run --nodes="$SLURM_JOB_NUM_NODES" --ray=auto "$@" || true

[ -s "$exit_code" ] || echo "harvest run did not start, or was killed: the log above says why" >&2
exit "$(grep . "$exit_code" || echo 1)"
