"""What a card uses of ``verl/experimental/agent_loop/agent_loop.py``, checked against verl 0.9.1."""

from typing import Any, Optional

from pydantic import BaseModel


class AgentLoopMetrics(BaseModel):
    generate_sequences: float = 0.0


# verl's own ignores fields that it does not know
class AgentLoopOutput(BaseModel, extra="forbid", strict=True):
    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: Optional[list[float]] = None  # noqa: UP045  (compared with verl's text)
    reward_score: Optional[float] = None  # noqa: UP045
    num_turns: int = 0
    metrics: AgentLoopMetrics
    extra_fields: dict[str, Any] = {}


class AgentLoopBase:
    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        raise NotImplementedError
