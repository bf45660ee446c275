"""Engines without a model: a cheap one for long runs and many kills, and others that fail in a chosen way.

Their settings are environment variables, because a replica builds its engine in its own process.
"""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

from tasks.errors import ReloadRefused
from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec, EngineStats
from tasks.node.engine_caches import cache_root
from tests.support.light_tokenizer import spare_transformers
from tests.support.patience import pause

_ENGINE_PROCESSES = ("tasks.generation.replica", "tasks.generation.reference_loops", "tasks.peers.one_call")
if getattr(sys.modules["__main__"].__spec__, "name", None) in _ENGINE_PROCESSES and "torch" not in sys.modules:
    spare_transformers()


def open_gate(gate: Path, *, until: int | None = None) -> None:
    """Let engines at ``gate`` go on, to the end or until they have finished ``until`` completions."""
    written = gate.with_suffix(".new")
    written.write_text("" if until is None else str(until))
    written.replace(gate)


class FakeEngine:
    """Generates one token per request and step. Completions depend only on the request's seed.

    ``FAKE_STEP_SECONDS`` is the time of a step, ``FAKE_START_SECONDS`` the time to load. ``FAKE_TOKENS`` is the number
    of tokens per request and step; completions are 2 to 12 times as long. With ``FAKE_HOLD_AFTER`` the engine stands
    still once it has finished so many completions, until a test calls ``open_gate`` with the file ``FAKE_GATE``, or for
    ever without that variable: so a test can disturb a run in the middle, however slow the machine is. With
    ``FAKE_NEVER_READY`` it never gets as far as to load.
    """

    def __init__(self, spec: EngineSpec) -> None:
        pause(float(os.environ.get("FAKE_START_SECONDS", "0")))
        while "FAKE_NEVER_READY" in os.environ:
            pause()
        self.stats = EngineStats()
        self.running: dict[str, tuple[EngineRequest, list[int]]] = {}
        self.most_running = 0
        self._step_seconds = float(os.environ.get("FAKE_STEP_SECONDS", "0"))
        self._step_tokens = int(os.environ.get("FAKE_TOKENS", "1"))
        self._finished = 0

    @property
    def version(self) -> str:
        return "fake 1"

    @property
    def dtype(self) -> str:
        return "float32"

    def add(self, request: EngineRequest) -> None:
        self.running[request.request_id] = (request, [])
        self.most_running = max(self.most_running, len(self.running))
        self.stats.prompt_tokens += len(request.prompt_ids)

    def step(self) -> list[EngineOutput]:
        left = completions_allowed() - self._finished
        if left <= 0:
            pause()
            return []
        pause(self._step_seconds)
        self.stats.running = len(self.running)
        finished: list[EngineOutput] = []
        for request, tokens in self.running.values():
            wanted = min(request.max_tokens, (2 + request.seed % 11) * self._step_tokens)
            if len(tokens) < wanted:
                before = len(tokens)
                self._generate(request, tokens)
                self.stats.generation_tokens += len(tokens) - before
            if len(tokens) >= wanted and len(finished) < left:
                finished.append(_output(request, tokens))
        for output in finished:
            del self.running[output.request_id]
        self._finished += len(finished)
        return finished

    def _generate(self, request: EngineRequest, tokens: list[int]) -> None:
        if self._step_tokens == 1:
            tokens.append(5 + (request.seed >> (4 * len(tokens))) % 90)
            return
        # a seed has bits for a few tokens only, and one repeated token would compress to nothing in a file
        count = min(self._step_tokens, request.max_tokens - len(tokens))
        tokens += [5 + byte % 90 for byte in random.Random(request.seed + len(tokens)).randbytes(count)]


def gate_is_open() -> bool:
    return "FAKE_GATE" in os.environ and Path(os.environ["FAKE_GATE"]).exists()


def completions_allowed() -> float:
    """How many completions an engine may finish before it stands still."""
    if gate_is_open():
        return float(Path(os.environ["FAKE_GATE"]).read_text() or "inf")
    return float(os.environ.get("FAKE_HOLD_AFTER", "inf"))


def _output(request: EngineRequest, tokens: list[int]) -> EngineOutput:
    return EngineOutput(
        request_id=request.request_id,
        completion_ids=tokens,
        logprobs=[-0.5] * len(tokens),
        finish_reason="stop" if len(tokens) < request.max_tokens else "length",
    )


class ReloadingEngine(FakeEngine):
    """Completions are one token, ``token_of`` the weights, again and again.

    Each engine adds a line to the file ``FAKE_LOADS`` for its start and for each load, with its process id. It refuses
    to load the weights whose directory ``FAKE_REFUSES`` names. The first to load those of ``FAKE_DIES_AT`` dies.
    """

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._path = spec.model_path
        self._tell("start", spec.model_path)

    @staticmethod
    def token_of(weights: Path) -> int:
        return 10 + int(weights.name.rpartition("-")[2])

    def load_weights(self, path: Path) -> None:
        assert not self.running, "requests are in flight"
        if path.name == os.environ.get("FAKE_REFUSES"):
            raise ReloadRefused("these weights are refused")
        self._tell("load", path)
        self._path = path
        if path.name == os.environ.get("FAKE_DIES_AT") and "died" not in Path(os.environ["FAKE_LOADS"]).read_text():
            self._tell("died", path)
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, what: str, path: Path) -> None:
        with Path(os.environ["FAKE_LOADS"]).open("a") as file:
            file.write(f"{what} {path.name} {os.getpid()}\n")

    def _generate(self, request: EngineRequest, tokens: list[int]) -> None:
        tokens.append(self.token_of(self._path))


class AdapterEngine(FakeEngine):
    """Completions depend on the adapter too, and differ from those of the model itself."""

    def _generate(self, request: EngineRequest, tokens: list[int]) -> None:
        super()._generate(request, tokens)
        if request.adapter is not None:
            tokens[-1] = 5 + (tokens[-1] + len(request.adapter.name)) % 90


class GatedEngine(FakeEngine):
    """Generates no token before the file ``FAKE_GATE`` exists. Its version names its GPUs."""

    @property
    def version(self) -> str:
        return f"fake on {os.environ.get('CUDA_VISIBLE_DEVICES')}"

    def step(self) -> list[EngineOutput]:
        if not gate_is_open():
            pause()
            return []
        return super().step()


class SharingEngine(FakeEngine):
    """Its version says what it may take of its GPU, and where it looks for MPS."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._share = spec.settings.gpu_memory_utilization

    @property
    def version(self) -> str:
        return (
            f"fake with {self._share} of {os.environ['CUDA_VISIBLE_DEVICES']}, {os.environ['CUDA_MPS_PIPE_DIRECTORY']}"
        )


class StragglingEngine(FakeEngine):
    """One completion in sixteen, ``is_straggler``, goes on only when the file ``FAKE_GATE`` exists."""

    @staticmethod
    def is_straggler(seed: int) -> bool:
        return seed % 16 == 0

    def step(self) -> list[EngineOutput]:
        if gate_is_open():
            return super().step()
        stragglers = {key: item for key, item in self.running.items() if self.is_straggler(item[0].seed)}
        if len(stragglers) == len(self.running):
            pause()
            return []
        for request_id in stragglers:
            del self.running[request_id]
        try:
            return super().step()
        finally:
            self.running |= stragglers


class PoisonedEngine(FakeEngine):
    """Kills its process at the second token of a request whose seed is in ``POISON_SEEDS``."""

    def step(self) -> list[EngineOutput]:
        poison = {int(seed) for seed in os.environ.get("POISON_SEEDS", "").split(",") if seed}
        if any(request.seed in poison and tokens for request, tokens in self.running.values()):
            self._die()
        return super().step()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class SharedFateEngine(PoisonedEngine):
    """Dies when it computes after the death of another, as clients of MPS do. The file ``FAULTS`` counts deaths."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._faults = Path(os.environ["FAULTS"])
        self._survived = self._count()

    def step(self) -> list[EngineOutput]:
        if self._count() > self._survived:
            super()._die()
        return super().step()

    def _count(self) -> int:
        return self._faults.stat().st_size if self._faults.exists() else 0

    def _die(self) -> None:
        with self._faults.open("ab") as file:
            file.write(b"x")
        super()._die()


class LonelyEngine(FakeEngine):
    """Finds no memory to start when another has made the file ``FIRST_ENGINE``, in the words of vLLM."""

    def __init__(self, spec: EngineSpec) -> None:
        try:
            Path(os.environ["FIRST_ENGINE"]).touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(
                "Free memory on device cuda:0 (1.0/79.6 GiB) on startup is less than desired GPU memory utilization "
                "(0.4437, 35.31 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
            ) from None
        super().__init__(spec)


class CoredEngine(FakeEngine):
    """Has forked another process, as vLLM does its engine core, which nothing ends but the end of its parent."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        multiprocessing.get_context("fork").Process(target=signal.pause, name="core", daemon=True).start()


class BrokenEngine(FakeEngine):
    """Never starts."""

    def __init__(self, spec: EngineSpec) -> None:
        raise ValueError("this engine does not start")


class LooplessEngine(FakeEngine):
    """Starts for everything but the loops that the pipeline replaces."""

    def __init__(self, spec: EngineSpec) -> None:
        if "tasks.generation.reference_loops" in sys.orig_argv:
            raise ValueError("this engine runs no loop")
        super().__init__(spec)


class CompilingEngine(FakeEngine):
    """Leaves a compiled graph where vLLM does, unless one is there."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        graph = cache_root(os.environ) / "torch_compile_cache/torch_aot_compile/demo/rank_0_0/model"
        if not graph.exists():
            graph.parent.mkdir(parents=True)
            graph.touch()


class GreedyEngine(FakeEngine):
    """Needs two GiB of host memory to start."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.weights = b"x" * 2 * 2**30


class CrowdedEngine(PoisonedEngine):
    """Raises an out-of-memory error with more than ``MEMORY_LIMIT`` requests in flight; may be poisoned too."""

    def step(self) -> list[EngineOutput]:
        if len(self.running) > int(os.environ["MEMORY_LIMIT"]):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity")
        return super().step()
