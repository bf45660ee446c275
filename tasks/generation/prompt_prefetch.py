"""Prompts encoded beside the generation loop, so that the engine never waits for a tokenizer."""

import copy
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice

from tasks.generation.shard_feed import GenerationSpec, QuestionWork
from tasks.plan.prompts import ChatTokenizer, build_messages


class PromptsAhead:
    """Encodes the prompts of the questions that come next; ``most`` questions at a time."""

    def __init__(self, tokenizer: ChatTokenizer, spec: GenerationSpec, *, most: int) -> None:
        # a tokenizer of its own: encoding in one thread while another decodes is not safe on one object
        self._tokenizer = copy.deepcopy(tokenizer)
        self._arms = {arm.id: arm for arm in spec.arms}
        self._most = most
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._ahead: dict[int, tuple[QuestionWork, Future[dict[str, list[int]]]]] = {}

    def prepare(self, coming: Iterable[QuestionWork]) -> None:
        """Begin with the first questions of ``coming`` that are not begun yet."""
        if 2 * len(self._ahead) > self._most:
            return
        for question in islice(coming, self._most):
            if id(question) not in self._ahead:
                self._ahead[id(question)] = (question, self._executor.submit(self._encode, question))

    def take(self, question: QuestionWork) -> dict[str, list[int]]:
        """Prompt ids of ``question`` by arm id."""
        begun = self._ahead.pop(id(question), None)
        return begun[1].result() if begun else self._encode(question)

    def _encode(self, question: QuestionWork) -> dict[str, list[int]]:
        if not question.question:
            return {}
        wanted = [self._arms[arm_id] for arm_id in dict.fromkeys(arm.id for arm, _ in question.rollouts)]
        encoded: dict[str, list[int]] = {}
        for _, group in groupby(wanted, key=lambda arm: arm.chat_template_kwargs):
            arms = list(group)
            prompts = [build_messages(arm, question.question) for arm in arms]
            ids = self._tokenizer.encode_all(prompts, arms[0].chat_template_kwargs)
            encoded |= {arm.id: own for arm, own in zip(arms, ids, strict=True)}
        return encoded
