"""Encodes prompts in a thread beside the generation loop, so that the engine never waits for the tokenizer."""

import copy
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from tasks.errors import ConfigError
from tasks.generation.generation_spec import GenerationSpec
from tasks.generation.shard_feed import QuestionWork
from tasks.plan.prompts import ChatTokenizer, encode_question


class PromptPrefetcher:
    """Encodes the prompts of the next questions, up to ``max_questions`` of them ahead of the loop."""

    def __init__(self, tokenizer: ChatTokenizer, spec: GenerationSpec, *, max_questions: int) -> None:
        # a copy, because one tokenizer must not encode in this thread while another thread decodes with it
        self._tokenizer = copy.deepcopy(tokenizer)
        self._arms = {arm.id: arm for arm in spec.arms}
        self._max_questions = max_questions
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._encoding: dict[int, tuple[QuestionWork, Future[dict[str, list[int] | ConfigError]]]] = {}

    def prefetch(self, upcoming: Iterable[QuestionWork]) -> None:
        """Begin to encode the first questions of ``upcoming``, unless enough questions are encoded already."""
        if 2 * len(self._encoding) > self._max_questions:
            return
        for question in islice(upcoming, self._max_questions):
            if id(question) not in self._encoding:
                self._encoding[id(question)] = (question, self._executor.submit(self._encode, question))

    def take(self, question: QuestionWork) -> dict[str, list[int] | ConfigError]:
        """Return the prompt ids of ``question`` by arm id, or why there are none.

        Encodes them now if they were not prefetched.
        """
        prefetched = self._encoding.pop(id(question), None)
        return prefetched[1].result() if prefetched else self._encode(question)

    def _encode(self, question: QuestionWork) -> dict[str, list[int] | ConfigError]:
        if not question.question:
            return {}
        arms = [self._arms[arm_id] for arm_id in dict.fromkeys(arm.id for arm, _ in question.rollouts)]
        return encode_question(self._tokenizer, arms, question.question)
