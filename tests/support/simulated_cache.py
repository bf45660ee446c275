"""An engine in numbers: sequences that grow by a token per step in a KV cache that may be too small for them."""

from collections import deque
from collections.abc import Callable

from tasks.generation.admission import Admission, Load


class SimulatedCache:
    """Runs endless work under an admission. A sequence that finds no room is preempted, and begins again when it can.

    As in vLLM, the youngest is preempted, and the preemption is told when the sequence runs again.
    """

    def __init__(
        self, *, tokens: int, prompt: int, length: Callable[[int], int], seats: int, per_question: int
    ) -> None:
        self.tokens, self.prompt, self.length, self.seats = tokens, prompt, length, seats
        self.per_question = per_question
        self.limits: list[int] = []
        self.in_flight: list[int] = []
        self.preempted = self.finished = 0
        self._told = self._number = 0
        self._running: list[list[int]] = []  # tokens so far and in the end, with a mark of an earlier preemption
        self._waiting: deque[list[int]] = deque()

    def run(self, admission: Admission, steps: int) -> None:
        for _ in range(steps):
            while len(self._running) + len(self._waiting) < admission.capacity:
                for _ in range(self.per_question):
                    self._number += 1
                    self._waiting.append([0, self.length(self._number), 0])
            self.in_flight.append(len(self._running) + len(self._waiting))
            self._step()
            in_flight = len(self._running) + len(self._waiting)
            admission.observe(
                Load(
                    in_flight=in_flight,
                    running=len(self._running),
                    finished=self.finished,
                    kv_cache_usage=min(1.0, self._used() / self.tokens),
                    preemptions=self._told,
                )
            )
            self.limits.append(admission.limit)

    def _used(self) -> int:
        return sum(self.prompt + done for done, _, _ in self._running)

    def _step(self) -> None:
        has_room = True
        while self._used() + len(self._running) > self.tokens and len(self._running) > 1:
            youngest = self._running.pop()
            self._waiting.appendleft([0, youngest[1], 1])
            self.preempted += 1
            has_room = False
        while has_room and self._waiting and len(self._running) < self.seats:
            if self._used() + len(self._running) + self.prompt + 1 > self.tokens:
                break
            sequence = self._waiting.popleft()
            self._told += sequence[2]
            self._running.append([0, sequence[1], 0])
        for sequence in self._running:
            sequence[0] += 1
        self.finished += sum(done >= end for done, end, _ in self._running)
        self._running = [item for item in self._running if item[0] < item[1]]
