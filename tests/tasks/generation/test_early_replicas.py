"""A replica process that imports vLLM early works for a replica with the same environment, and else leaves no trace.

No engine starts here, so modules that say that they are imported stand in for vLLM, whose import takes eight seconds.
``tests.support.engine_script`` imports vLLM by the same function.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.early_replicas import Spawned, begin_with, end_early, replica_environment, take_early
from tasks.generation.engine import EngineSpec
from tasks.generation.engine_sockets import SOCKETS_VARIABLE
from tasks.generation.replica_messages import Failed, Start
from tests.support.replica_parts import make_spec

pytestmark = pytest.mark.slow

VLLM = (
    *("vllm/__init__.py", "vllm/engine/__init__.py", "vllm/engine/arg_utils.py", "vllm/v1/__init__.py"),
    *("vllm/v1/engine/__init__.py", "vllm/v1/engine/core.py", "vllm/v1/engine/llm_engine.py"),
)
ENGINE = EngineSettings(kv_cache_space_gib=1, enforce_eager=True)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    for name in VLLM:
        module = tmp_path / "modules" / name
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(f"print('imported: {name}', flush=True)\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    made = replica_environment(ENGINE, None, {}, tmp_path / "caches")
    begin_with(made)
    yield made
    end_early()


def test_one_with_another_environment_is_not_taken(environment: dict[str, str]) -> None:
    for name, value in (("VLLM_BATCH_INVARIANT", "1"), ("CUDA_VISIBLE_DEVICES", "3"), ("VLLM_CACHE_ROOT", "/else")):
        assert take_early(environment | {name: value}, Path("unused.log")) is None, name
    taken = take_early(environment, Path("unused.log"))
    assert taken is not None
    assert take_early(environment, Path("unused.log")) is None
    taken.process.kill()
    taken.process.wait()


def test_what_is_taken_works_as_any_replica_and_writes_to_its_log(tmp_path: Path, environment: dict[str, str]) -> None:
    log = tmp_path / "replica.log"
    later = {SOCKETS_VARIABLE: str(tmp_path), "CUDA_MPS_PIPE_DIRECTORY": "/mps", "DO_NOT_TRACK": "1"}
    taken = take_early(environment | later, log)
    assert isinstance(taken, Spawned)
    settings = ENGINE.model_copy(update={"backend": "tests.no_such_module:Engine"})
    taken.connection.send(Start(engine=EngineSpec(model_path=tmp_path, settings=settings), generation=make_spec()))
    failed = taken.connection.recv()
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.starting) == ("config", True)
    told = log.read_text()
    assert "tests.no_such_module" in told
    # before there was a log
    assert [name for name in VLLM if f"imported: {name}\n" not in told] == []
    taken.process.wait()


def test_one_that_nobody_takes_ends(environment: dict[str, str]) -> None:
    del environment
    before = _children()
    end_early()
    assert set(_children()) < set(before)


def _children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
