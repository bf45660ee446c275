"""``vllm serve`` and an async client, tokens in and tokens out, as RL trainers use it.

The client keeps the completion ids, seeds and logprobs, and appends each completion to a file as it comes.
"""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any, TextIO

import aiohttp

from tasks.generation.engine import EngineRequest
from tasks.peers.contest import PeerJob, PeerResult, compete, read_requests, sampling_of
from tasks.peers.vllm_command import as_words, put_on_path, serve_options

POLL_S = 0.2
_MODEL = "contest"


def serve(job: PeerJob) -> PeerResult:
    """Start the server, send it all requests, and stop it. Raises RuntimeError when it ends or refuses a request."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = ["--host=127.0.0.1", f"--port={port}", f"--served-model-name={_MODEL}"]
    # the first of them adds the API that takes and gives token ids
    own += ["--enable-scale-out", "--disable-uvicorn-access-log"]
    # its output goes to this process's log
    put_on_path(job.directory / "bin")
    server = subprocess.Popen(["vllm", "serve", job.engine.model_path, *own, *as_words(serve_options(job.engine))])
    try:
        return asyncio.run(_ask_all(job, f"http://127.0.0.1:{port}", server))
    finally:
        # as a user stops it
        server.send_signal(signal.SIGTERM)


async def _ask_all(job: PeerJob, base: str, server: "subprocess.Popen[bytes]") -> PeerResult:
    requests = read_requests(job.requests)
    connector = aiohttp.TCPConnector(limit=job.in_flight)
    async with aiohttp.ClientSession(base, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await _ready(session, server)
        started = time.time()
        # all workers take from one iterator, so that each request is sent once
        waiting = iter(requests)
        with (job.directory / "rollouts.jsonl").open("w", encoding="utf-8", buffering=1) as file:
            workers = (_work(session, waiting, file) for _ in range(min(job.in_flight, len(requests))))
            counts = await asyncio.gather(*workers)
        finished = time.time()
    rollouts, tokens = (sum(column) for column in zip(*counts, strict=True))
    return PeerResult(started=started, finished=finished, rollouts=rollouts, tokens=tokens)


async def _ready(session: aiohttp.ClientSession, server: "subprocess.Popen[bytes]") -> None:
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"vllm serve ended with code {server.returncode} before it was ready")
        try:
            async with session.get("/health") as response:
                if response.status == 200:
                    return
        except (OSError, aiohttp.ClientError):
            pass
        await asyncio.sleep(POLL_S)


async def _work(session: aiohttp.ClientSession, waiting: Iterator[EngineRequest], file: TextIO) -> tuple[int, int]:
    """Send requests one after the other until none is left; return the numbers of answers and of their tokens."""
    rollouts = tokens = 0
    for request in waiting:
        async with session.post("/inference/v1/generate", json=_body(request)) as response:
            if response.status != 200:
                raise RuntimeError(f"vllm serve answered {response.status}: {(await response.text())[:500]}")
            choice = json.loads(await response.read())["choices"][0]
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        file.write(json.dumps({"id": request.request_id, "ids": choice["token_ids"], "logprobs": logprobs}) + "\n")
        rollouts += 1
        tokens += len(choice["token_ids"])
    return rollouts, tokens


def _body(request: EngineRequest) -> dict[str, Any]:
    sampling = {**sampling_of(request), "logprobs": request.top_logprobs, "detokenize": bool(request.stop)}
    return {"model": _MODEL, "token_ids": request.prompt_ids, "sampling_params": sampling}


if __name__ == "__main__":
    compete(serve)
