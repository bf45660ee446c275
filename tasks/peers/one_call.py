"""The engine with nothing around it: one ``LLM.generate`` call at vLLM's own defaults for the device.

- limit: no seeds, no logprobs, no text, nothing but token ids;
- features: with the seeds, logprobs and text that a run stores, and as many sequences at once as its profile states.
"""

import time
from functools import partial

from tasks.generation.batch_engine import load_batch_engine
from tasks.peers.contest import PeerJob, PeerResult, compete, read_requests
from tasks.peers.default_engine import default_arguments, feature_arguments
from tasks.peers.installed import FEATURES


def generate(job: PeerJob) -> PeerResult:
    """Complete all requests in one call."""
    features = job.contestant == FEATURES
    arguments = feature_arguments if features else partial(default_arguments, seeded=False)
    build_engine = load_batch_engine(job.engine.settings.backend, arguments)
    engine = build_engine(job.engine)
    requests = read_requests(job.requests)
    started = time.time()
    outputs = engine.generate(requests, text=features, only_ids=not features)
    finished = time.time()
    return PeerResult(started=started, finished=finished, rollouts=len(outputs), tokens=engine.count_tokens(outputs))


if __name__ == "__main__":
    compete(generate)
