"""Contestants as processes: what they tell, and what becomes of one that fails. The engine is a fake."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import DEMO_MODEL
from tasks.errors import EngineError, StorageError
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.peers.contest import PeerJob, read_requests, save_requests
from tasks.peers.peer_process import run_peer

FAKE = "tests.support.fake_engines:FakeEngine"


def job(tmp_path: Path, contestant: str, *, backend: str = FAKE, ignore_eos: bool = False) -> PeerJob:
    """Four requests, of whose completions the fake engine makes 2, 3, 4 and 5 tokens."""
    requests = [
        EngineRequest(
            request_id=str(seed),
            prompt_ids=[5, 6, 7],
            max_tokens=5,
            temperature=0.7,
            top_p=1.0,
            seed=seed,
            ignore_eos=ignore_eos,
        )
        for seed in range(4)
    ]
    save_requests(requests, tmp_path / "requests.pickle")
    settings = EngineSettings(
        backend=backend, dtype="float32", max_model_len=256, enforce_eager=True, kv_cache_space_gib=1
    )
    return PeerJob(
        contestant=contestant,
        engine=EngineSpec(model_path=DEMO_MODEL, settings=settings),
        requests=tmp_path / "requests.pickle",
        directory=tmp_path / "contestant",
        in_flight=2,
    )


@pytest.mark.parametrize("contestant", ["limit", "features"])
def test_one_call_completes_every_request(contestant: str, tmp_path: Path) -> None:
    ran = run_peer(job(tmp_path, contestant))
    assert (ran.result.rollouts, ran.result.tokens) == (4, 2 + 3 + 4 + 5)
    assert ran.result.started <= ran.result.finished
    assert 0 < ran.start_seconds < ran.process_seconds


@pytest.mark.parametrize(
    ("chosen", "used"), [("caches", "caches/vllm"), ("requests.pickle", "contestant/engine-caches/vllm")]
)
def test_a_contestant_keeps_what_it_compiles_where_a_run_does(
    chosen: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / chosen))
    run_peer(job(tmp_path, "limit", backend="tests.support.fake_engines:CompilingEngine"))
    assert (tmp_path / used / "torch_compile_cache").is_dir()


def test_a_contestant_that_makes_less_than_was_asked_for_has_failed(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"limit made 14 completion tokens, but 20 were asked for.*contestant\.log"):
        run_peer(job(tmp_path, "limit", ignore_eos=True))


def test_a_contestant_that_fails_is_told_with_its_reason_and_log(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"this engine does not start.*contestant\.log"):
        run_peer(job(tmp_path, "limit", backend="tests.support.fake_engines:BrokenEngine"))


def test_a_full_disk_is_told(small_disk: Path, tmp_path: Path) -> None:
    (first, *_) = read_requests(job(tmp_path, "limit").requests)
    with pytest.raises(StorageError, match=r"could not write .*requests\.pickle.*No space left"):
        save_requests([replace(first, prompt_ids=[5] * 2_000_000)], small_disk / "bench/requests.pickle")
    assert not list(small_disk.glob("bench/*"))


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    limit = job(tmp_path, "limit")
    with pytest.raises(StorageError, match=r"could not make .*requests\.pickle/limit: "):
        run_peer(replace(limit, directory=limit.requests / "limit"))


@pytest.mark.slow
def test_vllm_serve_answers_every_request_with_tokens_and_logprobs(tmp_path: Path) -> None:
    served = job(tmp_path, "vllm-serve", backend="vllm", ignore_eos=True)
    ran = run_peer(served)
    assert (ran.result.rollouts, ran.result.tokens) == (4, 20)
    rows = [json.loads(line) for line in (served.directory / "rollouts.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {"0", "1", "2", "3"}
    assert all(len(row["ids"]) == len(row["logprobs"]) == 5 for row in rows)
