"""How far a run is: published rollouts, and those that its journals have beside."""

from pathlib import Path

from tasks.generation.journal import JournalWriter, read_journal
from tasks.viewing.run_progress import read_progress
from tests.support.synthetic import write_run


def test_finished_rollouts_of_journals_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arms=2, shards=3)
    for index in (1, 2):
        run.rollouts(index).unlink()
    text = 'the words "kind":"rollout" and \\"kind\\":\\"rollout\\" in a text'
    for index in (0, 1):
        with JournalWriter(run.journal(index)) as journal:
            journal.append({"kind": "open", "run_id": "run"})
            journal.append({"kind": "admit", "example_id": text, "rollouts": [["a", 0], ["a", 1]], "isolation": 0})
            for sample in range(2):
                record = {"kind": "rollout", "example_id": text, "arm_id": "a", "sample_index": sample}
                journal.append({**record, "completion": text * 40_000})
    run.journal(1).with_name("other.jsonl").write_text('{"kind":"rollout"}')

    progress = read_progress(run.root)
    assert (progress.shards, progress.scored, progress.listed.rollouts) == (1, 3, 8)
    assert progress.journaled == len(read_journal(run.journal(1)).finished) == 2
    assert progress.rollouts == 10
    assert [(arm.rollouts, arm.interval is None) for arm in progress.arms] == [(4, False)] * 2


def test_no_more_rollouts_than_planned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arms=2)
    with JournalWriter(run.journal(7)) as journal:
        journal.append({"kind": "rollout", "example_id": "x", "arm_id": "a", "sample_index": 0})
    assert read_progress(run.root).rollouts == 16
