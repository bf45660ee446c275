"""A run whose outputs are not the baseline's: it fails, says why everywhere, and its data is stored under the verdict.

The engine is a fake whose rounding shows. How far it rounds is measured first, as a user would; then the baseline's
rewards are tampered with.
"""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.support.fake_profile import write_fake_profile
from tests.support.forked_harvest import harvest_forked
from tests.support.prefect_worker import Api
from tests.support.synthetic import publish_shard

pytestmark = pytest.mark.slow


def test_a_run_that_falls_short_fails_with_its_data_uploaded_under_the_verdict(
    tmp_path: Path, prefect_api: str
) -> None:
    runs_dir, store = tmp_path / "runs", tmp_path / "store"
    profile = write_fake_profile(tmp_path, backend="tests.support.rounding_engine:RoundingEngine")
    asked = ("--profile", profile, "--dataset", write_sums(tmp_path), "--temperature", 0, "--top-logprobs", 5)
    asked = (*asked, "--runs-dir", runs_dir)

    measured = harvest_forked(prefect_api, "bench", "--noise-floor", *asked, "--baseline-profile", profile)
    assert measured.code == 0, measured.stderr
    assert measured.stderr.splitlines() == ["baseline, first", "baseline, again", "baseline, reordered"]
    [bench] = runs_dir.glob("bench-*")
    first, again, reordered = (next(bench.glob(f"noise-{name}-*")) for name in ("first", "again", "reordered"))
    assert not different(first, again).height, "the same order rounds the same"
    flipped = different(first, reordered)
    # each run's lead of its own token over the other's, in nats
    limit = 2 * max(flipped["lead"] + flipped["lead_right"])
    assert f"near-tie limit {limit:.3g} nats (measured); {flipped.height} of 64 rollouts differ, " in measured.stdout
    assert f"differ, {flipped.height / 64:.2%} flip between right and wrong" in measured.stdout
    [kept] = (runs_dir / ".memory").glob("noise-floor-*.json")
    assert f"stored in {kept}; harvest run --baseline and harvest compare use it from now on" in measured.stdout
    floor = json.loads(kept.read_text())
    assert (floor["measured"], floor["flip_rate"]) == (True, flipped.height / 64)
    assert floor["near_tie_limit"] == pytest.approx(limit)

    # by the default of float32, differences as large would be real
    command = ("run", *asked, "--name", "gate", "--json")
    passed = harvest_forked(prefect_api, *command, "--baseline", reordered, "--require", "numerical")
    assert passed.code == 0, passed.stderr
    assert passed.report["equivalence"]["verdict"] == "numerical"
    run_dir = Path(passed.report["run_dir"])
    limits = json.loads((run_dir / "equivalence.json").read_text())["limits"]
    assert limits["source"] == f"measured between {first.name} and {reordered.name}"
    assert (limits["near_tie_limit"], limits["floor"]) == (floor["near_tie_limit"], floor)
    assert (run_dir / "logs" / "validate.log").is_file(), "compared in a process of its own"

    baseline = Path(shutil.copytree(run_dir, tmp_path / "baseline"))
    for path in (baseline / "scores").iterdir():
        publish_shard(pl.read_parquet(path).with_columns(reward=1 - pl.col("reward")), path)
    # everything is there already, so that nothing is generated
    compared = ("--baseline", baseline, "--epsilon", "0.05", "--upload", store)
    short = harvest_forked(prefect_api, *command, *compared)
    assert (short.code, short.stdout) == (3, "")
    reason = "the verdict is different, statistical was required. 64 rollouts have the same text but another reward"
    assert reason in short.stderr
    told = json.loads((run_dir / "equivalence.json").read_text())
    assert (told["verdict"], told["required"], told["epsilon"]) == ("different", "statistical", 0.05)
    uploaded = store / run_dir.name
    assert (uploaded / "_SUCCESS").is_file()
    assert json.loads((uploaded / "manifest.json").read_text())["equivalence"] == "different"
    assert len(list((uploaded / "rollouts").iterdir())) == len(list((run_dir / "rollouts").iterdir()))
    assert (uploaded / "report.html").read_bytes() == (run_dir / "report.html").read_bytes()

    api = Api(url=prefect_api)
    last, earlier = api.flow_runs_of(run_dir.name)
    assert (earlier["state_type"], last["state_type"]) == ("COMPLETED", "FAILED")
    assert reason in last["state"]["message"]
    told = {run["id"]: api.artifacts(run["id"])["harvest-equivalence"]["description"] for run in (earlier, last)}
    assert "**different**" in told[last["id"]]
    assert f"Near-tie limit: {limit:.3g} nats, {limits['source']}" in told[earlier["id"]]
    [event] = api.events("harvest.equivalence.failed", f"harvest.run.{run_dir.name}")
    assert event["payload"]["verdict"] == "different"


def write_sums(directory: Path) -> Path:
    """Eight questions, whose answer is 7."""
    path = directory / "sums.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"{n} + {7 - n}?", "answer": "7"}) for n in range(8)))
    return path


def different(first: Path, second: Path) -> pl.DataFrame:
    """The rollouts whose tokens differ between two runs, and how far ahead each run saw its own last token."""
    sides = [
        pl.read_parquet(run / "rollouts" / "*.parquet").select(
            *("example_id", "arm_id", "completion_ids"),
            lead=pl.col("top_logprobs").list.last().list.get(0) - pl.col("top_logprobs").list.last().list.get(1),
        )
        for run in (first, second)
    ]
    both = sides[0].join(sides[1], on=["example_id", "arm_id"], validate="1:1")
    return both.filter(pl.col("completion_ids") != pl.col("completion_ids_right"))
