"""Encodes all prompts of a benchmark once, so that every contestant gets the same token ids, lengths and seeds."""

from pathlib import Path

from tasks.errors import ConfigError, PromptTooLong
from tasks.generation.engine import EngineRequest
from tasks.generation.rollout_request import build_request
from tasks.peers.contest import save_requests
from tasks.plan.prompts import ChatTokenizer, build_messages, check_length, spare_torch
from tasks.plan.run_plan import RunPlan


def write_requests(plan: RunPlan, path: Path) -> int:
    """Save the requests of ``plan``, question by question, at ``path``; return the number of prompt tokens.

    A rollout that the pipeline would store as an error, without asking the engine, is left out. Call this in a process
    of its own, in which torch cannot be imported afterwards.
    """
    engine, sampling = plan.profile.engine, plan.config.sampling
    if not engine.trust_remote_code:
        spare_torch()
    tokenizer = ChatTokenizer(plan.model.path, trust_remote_code=engine.trust_remote_code)
    requests: list[EngineRequest] = []
    for example_id, question in plan.questions.select("example_id", "question").iter_rows():
        for arm in plan.arms.arms if question else ():
            try:
                ids = tokenizer.encode(build_messages(arm, question), arm.chat_template_kwargs)
                check_length(len(ids), sampling.max_tokens, engine.max_model_len)
            except (ConfigError, PromptTooLong):
                continue
            for sample in range(sampling.samples_per_arm):
                name = f"{example_id}/{arm.id}/{sample}"
                requests.append(build_request(name, ids, sampling, example_id, arm.id, sample))
    save_requests(requests, path)
    return sum(len(request.prompt_ids) for request in requests)
