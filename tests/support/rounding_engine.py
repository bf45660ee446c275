"""An engine whose rounding shows: which of two near-tied tokens it takes depends on the order of its work."""

import math
import random
from pathlib import Path

from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec
from tests.support.fake_engines import FakeEngine

LEAD = 0.04
"""Most nats that one of the two answers is ahead by, before rounding."""
ROUNDING = 0.02
"""Most nats that rounding moves that lead by."""


class RoundingEngine(FakeEngine):
    """Answers ``#### 7`` or ``#### 8``, whichever it sees ahead: by a lead that is the request's own, plus noise that
    depends on how many requests came before it."""

    def __init__(self, spec: EngineSpec) -> None:
        from tokenizers import Tokenizer

        super().__init__(spec)
        tokenizer = Tokenizer.from_file(str(Path(spec.model_path) / "tokenizer.json"))
        *self._prefix, seven = tokenizer.encode("#### 7").ids
        self._answers = (seven, tokenizer.encode("#### 8").ids[-1])
        self._others = [tokenizer.encode(f"#### {digit}").ids[-1] for digit in "123"]
        self._added = 0
        self._waiting: list[tuple[EngineRequest, int]] = []

    def add(self, request: EngineRequest) -> None:
        self._waiting.append((request, self._added))
        self._added += 1
        self.stats.prompt_tokens += len(request.prompt_ids)

    def step(self) -> list[EngineOutput]:
        finished = [self._answer(request, place) for request, place in self._waiting]
        self._waiting.clear()
        self.stats.generation_tokens += sum(len(output.completion_ids) for output in finished)
        return finished

    def _answer(self, request: EngineRequest, place: int) -> EngineOutput:
        lead = random.Random(request.seed).uniform(-LEAD, LEAD)
        lead += random.Random(f"{request.seed} {place}").uniform(-ROUNDING, ROUNDING)
        ranked = list(self._answers if lead >= 0 else reversed(self._answers))
        # the two share all but a thousandth of the probability
        best = math.log(0.999 / (1 + math.exp(-abs(lead))))
        top_ids = [[token, *self._others, *ranked][: request.top_logprobs] for token in self._prefix]
        top_ids.append([*ranked, *self._others][: request.top_logprobs])
        sure = [-1e-4, *[-12.0] * 4]
        contested = [best, best - abs(lead), *[math.log(0.001 / 3)] * 3]
        logprobs = [*[sure] * len(self._prefix), contested]
        return EngineOutput(
            request_id=request.request_id,
            completion_ids=[*self._prefix, ranked[0]],
            logprobs=[row[0] for row in logprobs],
            top_ids=top_ids,
            top_logprobs=[row[: request.top_logprobs] for row in logprobs],
            finish_reason="stop",
        )
