"""What a run will take is told from the nearest earlier run, or is called a guess, or unknown."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from tasks.files import publish_json, read_json
from tasks.generation.journal import JournalWriter
from tasks.node.gpu_selection import device_of
from tasks.plan.output_lengths import OutputLengths
from tasks.records import RunPaths
from tasks.results.earlier_runs import MOST_READ, read_earlier
from tasks.results.expectation import expect
from tasks.results.expectation_view import outcome_line, plan_lines, run_lines
from tasks.results.outcome import keep_expected, outcome_of
from tasks.results.summary import summarize_run
from tests.support.earlier_runs import finish, planned, session, write_earlier


def test_without_an_earlier_run_lengths_and_size_are_guesses_and_the_time_is_unknown(tmp_path: Path) -> None:
    expected = expect([planned(tmp_path)])
    assert (expected.rollouts, expected.completion_tokens, expected.completion_tokens_most) == (32, 1600, 3200)
    assert expected.prompt_tokens == 1616
    assert (expected.seconds, expected.cost_usd, expected.speed_from.kind) == (None, None, "unknown")
    assert (expected.tokens_from.kind, expected.disk_from.kind) == ("guess", "guess")
    assert expected.disk_bytes == 12 * 1600
    _, tokens, time, disk, cost = plan_lines(expected)
    assert "a guess, 50% of max_tokens, as no earlier run tells" in tokens
    assert time.startswith(
        "expected time: unknown: no earlier run or benchmark of this model under profile cpu-demo on "
    )
    assert "a guess, 12 bytes for each completion token" in disk
    assert cost == "expected cost: none, as no GPU is used"
    first, second = run_lines(expected)
    assert (
        first == "expected: 32 rollouts, about 1,600 completion tokens (at most 3,200), time unknown, 19.2 kB on disk"
    )
    assert second.startswith("tokens: a guess, 50% of max_tokens, as no earlier run tells; time: no earlier run or")


def test_an_earlier_run_tells_tokens_time_and_disk(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    device = device_of(plan.profile)
    run = finish(write_earlier(plan, "earlier", session(device=device, start_seconds=9.0, restarts=2)))
    files = [*run.root.glob("rollouts/*.parquet"), *run.root.glob("scores/*.parquet")]
    expected = expect([plan])
    assert (expected.completion_tokens, expected.tokens_per_s, expected.start_seconds) == (32 * 30, 200.0, 3.0)
    assert (expected.seconds, expected.seconds_most) == (3 + 960 / 200, 3 + 3200 / 200)
    assert expected.disk_bytes == round(32 * sum(file.stat().st_size for file in files) / 16)
    assert [source.run for source in (expected.tokens_from, expected.speed_from, expected.disk_from)] == ["earlier"] * 3
    assert (
        "about 7.8 s (at most 19.0 s), engine start 3.0 s, then 200 tokens/s: as in earlier" in plan_lines(expected)[2]
    )
    assert run_lines(expected)[0].endswith("about 7.8 s, " + f"{expected.disk_bytes / 1000:.1f} kB on disk")


def test_a_price_makes_a_cost_and_nodes_share_the_work(tmp_path: Path) -> None:
    plan = planned(tmp_path, profile="h100x8-replicas", model="demo")
    plan = replace(plan, profile=plan.profile.model_copy(update={"gpu_hour_usd": 2.0}))
    write_earlier(plan, "earlier", session(replicas=2, start_seconds=8.0, device=None))
    one, four = expect([plan], nodes=1), expect([plan], nodes=4)
    assert (one.gpus, one.tokens_per_s, one.start_seconds) == (8, 800.0, 4.0)
    assert one.cost_usd == pytest.approx((4 + 32 * 30 / 800) * 8 / 3600 * 2)
    assert (four.gpus, four.tokens_per_s) == (32, 3200.0)
    assert "scaled from 2 to 32 engines" in plan_lines(four)[2]
    assert plan_lines(one)[-1].endswith("8 GPUs at $2.00 an hour")
    assert plan_lines(replace(one, gpu_hour_usd=None))[-1] == (
        "expected cost: unknown: the profile has no price (gpu_hour_usd)"
    )


def test_the_same_command_again_expects_the_rest(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    write_earlier(plan, "earlier", session(device=device_of(plan.profile)))
    plan.paths.rollouts(1).parent.mkdir(parents=True)
    shutil.copy(tmp_path / "earlier/rollouts/shard-00000.parquet", plan.paths.rollouts(1))
    with JournalWriter(plan.paths.journal(0)) as journal:
        for sample in range(3):
            made = {"kind": "rollout", "example_id": "q", "arm_id": "a", "sample_index": sample}
            journal.append(made)
    expected = expect([plan])
    # its session's 20 tokens for each finished rollout are also those of rollouts that never ended
    assert (expected.rollouts, expected.rollouts_finished, expected.completion_tokens) == (13, 19, 13 * 30)
    assert plan_lines(expected)[0] == "expected rollouts: 13; 19 are finished"
    # another policy beside it has all to do
    beside = replace(plan, paths=RunPaths(root=tmp_path / "beside"))
    assert expect([plan, beside]).rollouts == 13 + 32
    shutil.copy(plan.paths.rollouts(1), plan.paths.rollouts(0))
    assert (expect([plan]).rollouts, expect([plan]).seconds) == (0, 0.0)


def test_a_run_that_was_killed_before_its_first_shard_tells_no_length(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    run = write_earlier(plan, "earlier", session(rollouts=2, tokens=60_000, device=device_of(plan.profile)))
    shutil.rmtree(run.root / "rollouts")
    expected = expect([plan])
    assert (expected.tokens_from.kind, expected.completion_tokens) == ("guess", 1600)
    assert expected.speed_from.run == "earlier"
    (run.root / "rollouts").mkdir()
    run.rollouts(0).write_bytes(b"no Parquet")
    assert expect([plan]).tokens_from.kind == "guess"


def test_a_shorter_max_tokens_of_the_earlier_run_is_told(tmp_path: Path) -> None:
    asked = planned(tmp_path).config.model_dump(mode="json")
    plan = planned(tmp_path, max_tokens=200)
    write_earlier(plan, "earlier", config=asked)
    publish_json(
        {"num_rollouts": 16, "overall": {"mean_completion_tokens": 90, "truncation_rate": 0.25}},
        tmp_path / "earlier/report.json",
    )
    assert "25% were cut off at max_tokens 100, so expect more" in plan_lines(expect([plan]))[1]
    assert expect([planned(tmp_path, max_tokens=50)]).completion_tokens == 32 * 50
    named = expect([plan], mean_tokens=7.0)
    assert named.completion_tokens == 32 * 7


@pytest.mark.parametrize(
    "lengths", [OutputLengths(median=20), OutputLengths(median=90, sigma=1.5), OutputLengths(median=20, sigma=0)]
)
def test_drawn_lengths_have_the_mean_that_is_drawn(tmp_path: Path, lengths: OutputLengths) -> None:
    expected = expect([planned(tmp_path, lengths=f"lognormal:{lengths.median}:{lengths.sigma}")])
    drawn = fmean(lengths.draw(seed, 100) for seed in range(20_000))
    assert expected.completion_tokens == pytest.approx(32 * drawn, rel=0.03)
    assert expected.tokens_from.kind == "sampling"


@pytest.mark.parametrize("name", ["config.json", "report.json", "manifest.json", "state/generation.json"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{}", b"\xff\x00", b'{"sessions": "many"}'])
def test_a_damaged_earlier_run_breaks_no_plan(finished: Path, tmp_path: Path, name: str, content: bytes) -> None:
    runs_dir = Path(shutil.copytree(finished, tmp_path / "runs"))
    (runs_dir / "earlier" / name).write_bytes(content)
    expected = expect([planned(runs_dir)])
    assert expected.rollouts == 32
    known = {
        "config.json": (),
        "report.json": (),
        "manifest.json": ("tokens",),
        "state/generation.json": ("tokens", "disk"),
    }
    assert tuple(part for part in ("tokens", "disk") if getattr(expected, f"{part}_from").kind == "run") == known[name]


@pytest.mark.parametrize("values", [{"seconds": 1e999}, {"start_seconds": -1.0}, {"tokens": 10**400}, {"seconds": 0.0}])
def test_a_session_that_cannot_have_been_tells_nothing(tmp_path: Path, values: dict[str, float]) -> None:
    plan = planned(tmp_path)
    run = write_earlier(plan, "earlier", session(device=None))
    state = run.state / "generation.json"
    (made,) = read_json(state)
    # JSON writes an infinite number as Infinity, and reads one from many digits
    state.write_text(json.dumps([made | values]).replace("Infinity", "1e999"))
    expected = expect([plan])
    assert expected.seconds is None
    assert plan_lines(expected)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("finished")
    finish(write_earlier(planned(runs_dir), "earlier"))
    return runs_dir


def test_a_directory_of_a_benchmark_is_read_and_only_the_newest_runs_are(finished: Path, tmp_path: Path) -> None:
    source = finished / "earlier"
    for index in range(MOST_READ + 5):
        root = tmp_path / f"run-{index}"
        root.mkdir()
        shutil.copy(source / "config.json", root)
        os.utime(root, (index, index))
    bench = tmp_path / "bench-cpu-demo-20260101-000000/repeat-1/pipeline-1"
    shutil.copytree(source, bench)
    found = read_earlier(tmp_path, planned(tmp_path).model.tokenizer_digest)
    assert len(found) == MOST_READ
    assert found[0].name == "bench-cpu-demo-20260101-000000/repeat-1/pipeline-1"
    assert found[-1].name == "run-6"


def test_the_report_says_what_was_expected_and_what_it_took(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    run = write_earlier(plan, "run", session(start_seconds=4.0, replicas=2))
    assert summarize_run(run.root).outcome is None
    keep_expected(run, tokens=1800, seconds=9.0)
    outcome = summarize_run(run.root).outcome
    assert outcome is not None
    assert (outcome.tokens, outcome.seconds, outcome.expected_tokens, outcome.expected_seconds) == (2000, 12, 1800, 9)
    assert outcome_line(outcome).startswith("expected were 1,800 tokens in 9.0 s, and 2,000 were made in 12.0 s")
    keep_expected(run, tokens=1800, seconds=None)
    assert "expected were 1,800 tokens, and" in outcome_line(outcome_of(run, [session()]) or outcome)
    # the time of engines that served several runs is no run's own
    assert outcome_of(run, [session(shared_with=("other",))]) is None
    (run.state / "expected.json").write_text("{")
    assert outcome_of(run, [session()]) is None
