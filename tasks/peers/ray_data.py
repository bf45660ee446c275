"""Ray Data LLM: ``ray.data.llm``'s vLLM processor over a dataset of prompts, written as Parquet.

Prompts are token ids, so that its stages for templates and tokens are left out. Each row keeps its completion ids and
logprobs. Its first and last moment are vLLM's own times of the requests.
"""

import json
import os
import time
from typing import Any

from tasks.generation.engine import EngineRequest
from tasks.parent_death import PARENT_VARIABLE
from tasks.peers.contest import PeerJob, PeerResult, compete, read_requests, sampling_of
from tasks.peers.default_engine import default_arguments

BATCH_ROWS = 32
"""Ray's own batch_size."""
LEAST_BATCHES = 8
"""Ray's own max_concurrent_batches."""
STORE_BYTES = 1 << 30


def run(job: PeerJob) -> PeerResult:
    """Process the requests as a dataset. Raises what Ray raises."""
    batches = max(LEAST_BATCHES, -(-job.in_flight // BATCH_ROWS))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # the engine's processes are no children of this one; Ray ends its own with it
    os.environ.pop(PARENT_VARIABLE, None)
    # of a small dataset no more than 4 batches would be in the engine at once
    os.environ.setdefault("RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY", str(batches))
    import ray
    from pyarrow import parquet

    # a Ray of its own, also with RAY_ADDRESS; with fewer processors than stages, the dataset would wait for ever
    processors = max(4, os.cpu_count() or 1)
    ray.init("local", num_cpus=processors, include_dashboard=False, object_store_memory=STORE_BYTES)
    from ray.data.llm import build_processor

    rows = [_row(request) for request in read_requests(job.requests)]
    processor = build_processor(_config(job, batches), preprocess=_prepare, postprocess=_keep)
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // BATCH_ROWS))
    out = job.directory / "rollouts"
    processor(data).write_parquet(str(out))
    kept = parquet.read_table(out).to_pydict()
    ray.shutdown()
    started, finished = _span(kept)
    tokens = sum(map(len, kept["completion_ids"]))
    return PeerResult(started=started, finished=finished, rollouts=len(kept["id"]), tokens=tokens)


def _config(job: PeerJob, batches: int) -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    arguments = default_arguments(job.engine, seeded=True)
    on_cpu = job.engine.settings.kv_cache_space_gib is not None
    return vLLMEngineProcessorConfig(
        model_source=arguments.pop("model"),
        engine_kwargs=arguments,
        concurrency=1,
        batch_size=BATCH_ROWS,
        max_concurrent_batches=batches,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        **({"placement_group_config": {"bundles": [{"CPU": 1}]}} if on_cpu else {}),
    )


def _row(request: EngineRequest) -> dict[str, Any]:
    sampling = {**sampling_of(request), "logprobs": request.top_logprobs, "detokenize": bool(request.stop)}
    return {"id": request.request_id, "prompt_ids": request.prompt_ids, "sampling": json.dumps(sampling)}


def _prepare(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "tokenized_prompt": row["prompt_ids"], "sampling_params": json.loads(row["sampling"])}


def _keep(row: dict[str, Any]) -> dict[str, Any]:
    ids = row["generated_tokens"]
    # one table of candidates per token, by token id; ids are text where the table came through JSON
    tables = zip(ids, row["logprobs"], strict=True)
    logprobs = [float((table[token] if token in table else table[str(token)])["logprob"]) for token, table in tables]
    metrics = json.dumps(row.get("metrics"), default=float)
    return {
        "id": row["id"],
        "completion_ids": ids,
        "logprobs": logprobs,
        "metrics": metrics,
        "done_at": time.time(),
        "took": float(row["time_taken_llm"]),
    }


def _span(kept: dict[str, list[Any]]) -> tuple[float, float]:
    metrics = [found for found in map(json.loads, kept["metrics"]) if found and found.get("arrival_time")]
    if len(metrics) < len(kept["id"]):
        # what a request took, before its row came by
        return min(done - took for done, took in zip(kept["done_at"], kept["took"], strict=True)), max(kept["done_at"])
    # arrival is a time since the epoch, the others are of another clock
    ends = [found["arrival_time"] + found["last_token_ts"] - found["queued_ts"] for found in metrics]
    return min(found["arrival_time"] for found in metrics), max(ends)


if __name__ == "__main__":
    compete(run)
