from pathlib import Path

import pytest

from tasks.comparison.comparability import COMPARABLE_KEYS, SettingDifference, check_comparable
from tasks.errors import ConfigError, DamagedFile
from tasks.records import RunPaths
from tests.support.synthetic import write_run


@pytest.mark.parametrize("key", [key for key in COMPARABLE_KEYS if key != "dataset"])
def test_different_comparable_settings_are_refused_with_both_values(tmp_path: Path, key: str) -> None:
    baseline = write_run(tmp_path / "baseline", comparable={key: "this one"})
    candidate = write_run(tmp_path / "candidate", comparable={key: "that one"})
    with pytest.raises(ConfigError, match=rf"{key}: 'this one' in the baseline, 'that one' in the candidate"):
        check_comparable(baseline.root, candidate.root)


def test_only_the_nested_setting_that_differs_is_named(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(value), comparable={"sampling": {"temperature": value, "top_p": 1.0}}).root
        for value in (0.7, 1.0)
    ]
    with pytest.raises(
        ConfigError, match=r"sampling\.temperature: 0\.7 in the baseline, 1\.0 in the candidate"
    ) as info:
        check_comparable(*runs)
    assert "top_p" not in str(info.value)


def test_other_differences_are_listed_as_tested(tmp_path: Path) -> None:
    baseline = write_run(tmp_path / "a", tested={"question_batch_size": 1, "versions": {"vllm": "1", "torch": "2"}})
    candidate = write_run(
        tmp_path / "b",
        tested={"question_batch_size": 16, "versions": {"vllm": "1", "torch": "3"}, "shard_size": 8},
        comparable={"dataset": "more questions"},
    )
    found = check_comparable(baseline.root, candidate.root)
    assert set(found.tested) == {
        SettingDifference(name="question_batch_size", baseline=1, candidate=16),
        SettingDifference(name="versions.torch", baseline="2", candidate="3"),
        SettingDifference(name="shard_size", baseline="(absent)", candidate=8),
    }
    assert not found.same_dataset
    assert (found.baseline.run_id, found.candidate.run_id) == ("a", "b")


@pytest.mark.parametrize(("name", "differs"), [("dtype", True), ("quantization", True), ("replicas", False)])
def test_another_number_format_is_recognised(tmp_path: Path, name: str, differs: bool) -> None:
    runs = [write_run(tmp_path / str(index), tested={name: f"value {index}"}).root for index in range(2)]
    assert check_comparable(*runs).number_format_differs is differs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing or not a run's configuration"),
        ("{", "config.json is damaged"),
        ('{"run_id": "x"}', "missing or not a run's configuration"),
        ('{"comparable": {"model": "m"}}', "does not state tokenizer, chat_template"),
    ],
)
def test_a_directory_without_a_usable_configuration(tmp_path: Path, content: str | None, message: str) -> None:
    good, bad = write_run(tmp_path / "good"), RunPaths(root=tmp_path / "bad")
    bad.root.mkdir()
    if content is not None:
        bad.config.write_text(content)
    with pytest.raises((ConfigError, DamagedFile), match=message):
        check_comparable(good.root, bad.root)


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        check_comparable(write_run(tmp_path / "good").root, tmp_path / "absent")
