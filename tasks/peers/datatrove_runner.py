"""datatrove's InferenceRunner with its vLLM server: one document per rollout, in one local task.

Its result has room for the text alone, so that it asks for seeds but not for logprobs. Its checkpoints are on, as for a
user who would resume.
"""

import time
from typing import Any

from tasks.generation.engine import EngineRequest
from tasks.peers.contest import PeerJob, PeerResult, compete, read_requests, sampling_of
from tasks.peers.vllm_command import put_on_path, serve_options

CHUNK_RECORDS = 256
READY_SECONDS = 1800.0
"""Within these seconds its server must be ready, as an engine of ours without another limit."""
_POLL_S = 0.5


class _Answers:
    """Counts answers, and takes the times of the first request and the last answer."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.finished = 0.0
        self.rollouts = self.tokens = 0

    def watch(self, server: Any) -> None:
        """Have the server class ``server`` note the time of its first request: before it, it waits to be ready."""
        send = server._make_request

        async def timed(own: Any, payload: dict[str, Any]) -> Any:
            if self.started is None:
                self.started = time.time()
            return await send(own, payload)

        server._make_request = timed

    def count(self, tokens: int) -> None:
        self.finished = time.time()
        self.rollouts += 1
        self.tokens += tokens


def run(job: PeerJob) -> PeerResult:
    """Run a pipeline of the requests and the runner. Raises what datatrove raises."""
    # it starts the command by its name
    put_on_path(job.directory / "bin")
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceRunner
    from datatrove.pipeline.inference.servers.base import InferenceServer
    from datatrove.pipeline.writers import JsonlWriter

    answers = _Answers()
    answers.watch(InferenceServer)

    async def rollout(document: Any, generate: Any) -> Any:
        result = await generate(document.metadata)
        answers.count(result.usage["completion_tokens"])
        return result

    runner = InferenceRunner(
        rollout_fn=rollout,
        config=_config(job),
        output_writer=JsonlWriter(
            str(job.directory / "output"), output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None
        ),
        checkpoints_local_dir=str(job.directory / "checkpoints"),
        records_per_chunk=CHUNK_RECORDS,
    )
    documents = [_document(request) for request in read_requests(job.requests)]
    logs = str(job.directory / "logs")
    LocalPipelineExecutor(pipeline=[documents, runner], tasks=1, workers=1, logging_dir=logs).run()
    if answers.started is None:
        raise RuntimeError("datatrove's runner sent no request")
    return PeerResult(
        started=answers.started, finished=answers.finished, rollouts=answers.rollouts, tokens=answers.tokens
    )


def _config(job: PeerJob) -> Any:
    from datatrove.pipeline.inference.run_inference import InferenceConfig

    options = serve_options(job.engine)
    # it has names of its own for these, and always passes --trust-remote-code
    context, parallel = options.pop("max-model-len"), options.pop("tensor-parallel-size")
    options.pop("trust-remote-code")
    return InferenceConfig(
        server_type="vllm",
        model_name_or_path=str(job.engine.model_path),
        model_max_context=context,
        use_chat=False,
        tp=parallel,
        max_concurrent_generations=job.in_flight,
        rollouts_per_document=1,
        model_kwargs=options,
        # its default would add up to 5 s to the start
        server_ready_delay_sec=_POLL_S,
        server_ready_max_attempts=round(READY_SECONDS / _POLL_S),
        server_start_max_retries=0,
        server_log_folder=str(job.directory / "server-logs"),
    )


def _document(request: EngineRequest) -> Any:
    from datatrove.data import Document

    payload = {"prompt": request.prompt_ids, **sampling_of(request)}
    return Document(text=request.request_id, id=request.request_id, metadata=payload)


if __name__ == "__main__":
    compete(run)
