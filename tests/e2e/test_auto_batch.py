"""A run that chooses its question batch says which, and why, in preflight, rows and report."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.support.fake_profile import FAKE_PROFILE
from tests.support.forked_harvest import harvest_forked
from tests.support.harvest_command import harvest_here


@pytest.mark.slow
def test_a_run_with_a_chosen_batch_shows_it_everywhere(tmp_path: Path, prefect_api: str) -> None:
    profile = tmp_path / "fake.toml"
    text = FAKE_PROFILE.replace("question_batch_size = 4", 'question_batch_size = "auto"')
    # 1 GiB holds all 64 sequences, so that the batch is full from the start
    profile.write_text(text.replace("[engine]", "[engine]\nmax_num_seqs = 64"))
    outcome = harvest_forked(
        prefect_api,
        *(
            "run",
            "--profile",
            profile,
            "--questions",
            8,
            "--max-tokens",
            16,
            "--runs-dir",
            tmp_path / "runs",
            "--json",
            *("--sample-until", "correct:1", "--max-samples-per-arm", 3, "--wave-size", 1, "--shard-size", 4),
            *("--upload", tmp_path / "up"),
        ),
    )
    assert outcome.code == 0, outcome.stderr
    run_dir = Path(outcome.report["run_dir"])
    config = json.loads((run_dir / "config.json").read_text())
    assert config["tested"]["question_batch_size"] == "auto"
    chosen = json.loads((run_dir / "preflight.json").read_text())["plan"]["auto"]
    assert (chosen["sequences"], chosen["first_questions"], chosen["questions"]) == (64, 8, 8)
    assert chosen["reason"].startswith("64, max_num_seqs: the KV cache holds ")
    rows = pl.read_parquet(run_dir / "rollouts" / "*.parquet")
    assert rows.select("question_batch_size", "max_num_seqs").unique().rows() == [(8, 64)]
    # noise is never right, so that every group has all samples, in three waves of both shards
    assert rows.height == 8 * 8 * 3
    waves = [f"rollouts/shard-0000{shard}{wave}.parquet" for shard in (0, 1) for wave in ("", "-w01", "-w02")]
    uploaded = tmp_path / "up" / run_dir.name
    assert {path.relative_to(uploaded).as_posix() for path in uploaded.glob("rollouts/*")} == {*waves}
    assert harvest_here("verify", uploaded) == 0
    batch = {"stated": "auto", "least": 8, "most": 8, "sequences": 64, "reason": chosen["reason"]}
    assert json.loads((run_dir / "report.json").read_text())["batch"] == batch
    assert chosen["reason"] in (run_dir / "report.html").read_text()
    assert "question batch chosen: 8 questions in flight at first and up to 8" in outcome.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["0"], "--question-batch-size is '0': give a whole number from 1 to 65,536, or \"auto\""),
        (["many"], "--question-batch-size is 'many': give a whole number from 1 to 65,536, or \"auto\""),
        (["1.5"], "--question-batch-size is '1.5': give a whole number from 1 to 65,536, or \"auto\""),
        (["auto", "--profile", "cpu-demo-baseline"], "waits for a whole batch, which needs a size"),
    ],
)
def test_a_bad_batch_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    assert harvest_here("run", "--question-batch-size", *given, "--runs-dir", tmp_path / "runs") == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
