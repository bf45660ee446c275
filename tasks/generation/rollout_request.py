"""Builds the engine request of a rollout, in the same way for the generation loop and the reference loops."""

from tasks.generation.engine import EngineRequest
from tasks.generation.policy import Adapter
from tasks.plan.prompts import request_seed
from tasks.plan.sampling import Sampling, set_fields


def build_request(
    request_id: str,
    prompt_ids: list[int],
    sampling: Sampling,
    example_id: str,
    arm_id: str,
    sample_index: int,
    *,
    adapter: Adapter | None = None,
) -> EngineRequest:
    """Return the request of one rollout. Its seed, and its drawn length if any, depend only on the rollout's key,
    so that each policy gets the same."""
    seed = request_seed(sampling.seed, example_id, arm_id, sample_index)
    return EngineRequest(
        request_id=request_id,
        prompt_ids=prompt_ids,
        max_tokens=completion_limit(sampling, seed),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        top_logprobs=sampling.top_logprobs,
        ignore_eos=sampling.lengths is not None,
        stop=sampling.stop,
        more_sampling={name: value for name, value in set_fields(sampling).items() if name != "stop"},
        adapter=adapter,
    )


def completion_limit(sampling: Sampling, seed: int) -> int:
    """Return the largest number of tokens of the completion whose request has ``seed``."""
    if sampling.lengths is None:
        return sampling.max_tokens
    return sampling.lengths.draw(seed, sampling.max_tokens)
