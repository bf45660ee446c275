"""A cheap engine with a core in a process of its own, for which it waits."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import setproctitle

from tasks.generation.engine import EngineOutput, EngineSpec
from tests.support.fake_engines import FakeEngine, completions_allowed
from tests.support.patience import pause


class WaitingEngine(FakeEngine):
    """Waits for its core as vLLM does, for ever, at its start and at each step: a process that it has forked.

    The core answers once the file ``FAKE_CORE_GATE`` exists. While a test holds the engine, it reports progress.
    """

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        context = multiprocessing.get_context("fork")
        # this process keeps both ends, so that it reads no end when the core ends
        self._pipe = context.Pipe()
        context.Process(target=_answer, args=(self._pipe[1],), name="EngineCore", daemon=True).start()
        self._wait()

    def step(self) -> list[EngineOutput]:
        if self._finished >= completions_allowed():
            self.stats.generation_tokens += 1
        else:
            self._wait()
        return super().step()

    def _wait(self) -> None:
        self._pipe[0].send(None)
        self._pipe[0].recv()


def _answer(pipe: "Connection[None, None]") -> None:
    setproctitle.setproctitle("EngineCore")
    while not Path(os.environ["FAKE_CORE_GATE"]).exists():
        pause()
    while True:
        pipe.send(pipe.recv())
