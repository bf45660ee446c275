"""Work beside the generation loop, so that the engine never waits for a tokenizer or a disk.

While a GPU computes a step, the loop's own thread waits without holding the interpreter; prompts are encoded and
finished rollouts written in that time.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any

from tasks.prompts import ChatTokenizer, build_messages
from tasks.shard_feed import GenerationSpec, QuestionWork


class SideThread:
    """One thread that does calls in order; their errors are raised in the loop, by the next ``submit`` or ``drain``."""

    def __init__(self, name: str, *, most_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting: deque[tuple[Future[Any], int]] = deque()
        self._num_waiting = 0
        self._most_waiting = most_waiting

    def submit(self, call: Callable[..., Any], *arguments: Any, size: int = 1) -> None:
        """Have ``call`` done later, which is work on ``size`` things; waits while that many are waiting already that
        memory would not stay bounded."""
        while self._waiting and (self._waiting[0][0].done() or self._num_waiting >= self._most_waiting):
            self._take_first()
        self._waiting.append((self._executor.submit(call, *arguments), size))
        self._num_waiting += size

    def drain(self) -> None:
        """Wait until everything is done."""
        while self._waiting:
            self._take_first()

    def _take_first(self) -> None:
        future, size = self._waiting.popleft()
        self._num_waiting -= size
        future.result()


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
