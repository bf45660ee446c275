"""Filling the engines' caches with a real replica process and a fake engine in it."""

from pathlib import Path

import pytest

from tasks.errors import EngineStartError, PreflightFailed
from tasks.generation.warm_start import check_caches, has_nothing_to_warm, warm_caches
from tests.tasks.generation.test_replica_pool import generate, make_plan

pytestmark = pytest.mark.slow


def test_the_first_start_fills_the_caches_and_the_second_finds_them_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / "caches"))
    plan = make_plan(tmp_path, backend="tests.support.fake_engines:CompilingEngine", replicas=2)
    assert not has_nothing_to_warm(plan)
    started = [warm_caches(plan) for _ in range(2)]
    assert [start.start_kind for start in started] == ["cold", "warm"]
    assert started[0].caches == str(tmp_path / "caches/vllm")
    assert started[0].seconds > 0
    assert not plan.paths.root.exists()
    assert not list((plan.paths.root.parent / ".warm").iterdir())
    replicas: list[int] = []
    run = generate(plan, watch=lambda pool: replicas.append(len(pool.status())))
    assert replicas[0] == 2, "with full caches no replica waits for the first"
    assert run.error is None
    assert run.pool.start_kind == "warm"


def test_an_engine_that_does_not_start_leaves_its_log(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, backend="tests.support.fake_engines:BrokenEngine")
    with pytest.raises(EngineStartError, match="this engine does not start"):
        warm_caches(plan)
    (log,) = plan.paths.root.parent.glob(".warm/*/logs/*.log")
    assert "this engine does not start" in log.read_text()


def test_caches_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreflightFailed, match="HARVEST_CACHE_DIR"):
        check_caches({"HARVEST_CACHE_DIR": str(tmp_path / "file")})
