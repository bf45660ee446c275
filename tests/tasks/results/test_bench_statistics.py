import pytest

from tasks.results.bench_statistics import Measurement, standings


def measured(contestant: str, repeat: int, seconds: float, tokens: int = 1000, gpus: int = 1) -> Measurement:
    return Measurement(
        contestant=contestant,
        repeat=repeat,
        run_dir="",
        seconds=seconds,
        start_seconds=10.0,
        process_seconds=12.0 + seconds,
        gpus=gpus,
        arithmetic_share=0.1 * repeat,
        rollouts=80,
        tokens=tokens,
    )


def test_ratios_are_taken_within_a_repeat() -> None:
    # the machine was half as fast in the second repeat, for both
    items = [measured("loop", 1, 8), measured("loop", 2, 16), measured("pipeline", 1, 2), measured("pipeline", 2, 4)]
    loop, pipeline = standings(items, subject="pipeline", rollouts_per_question=8)
    assert loop.speedup is not None
    assert (loop.speedup.low, loop.speedup.mean, loop.speedup.high) == (4, 4, 4)
    assert (loop.tokens_per_s.low, loop.tokens_per_s.high) == (62.5, 125)
    assert pipeline.speedup is None


def test_a_ratio_compares_tokens_not_time() -> None:
    items = [measured("loop", 1, 4, tokens=1000), measured("pipeline", 1, 2, tokens=250)]
    assert standings(items, subject="pipeline", rollouts_per_question=8)[0].speedup.mean == 0.5  # type: ignore[union-attr]


def test_a_ratio_is_per_gpu() -> None:
    items = [measured("limit", 1, 4), measured("pipeline", 1, 1, gpus=4)]
    assert standings(items, subject="pipeline", rollouts_per_question=8)[0].speedup.mean == 1  # type: ignore[union-attr]


def test_time_from_start_to_exit_and_share_of_the_card_are_means() -> None:
    (limit,) = standings(
        [measured("limit", 1, 4), measured("limit", 2, 8)], subject="pipeline", rollouts_per_question=8
    )
    assert (limit.process_seconds.low, limit.process_seconds.mean, limit.process_seconds.high) == (16, 18, 20)
    assert limit.arithmetic_share == pytest.approx(0.15)


def test_the_projection_counts_one_start_and_every_rollout() -> None:
    (pipeline,) = standings([measured("pipeline", 1, 4)], subject="pipeline", rollouts_per_question=8)
    # 20 sequences/s
    assert pipeline.projection == pytest.approx({100: 10 + 40, 500: 10 + 200, 7473: 10 + 7473 * 8 / 20})
