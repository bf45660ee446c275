"""What holds for every ``harvest`` command."""

from pathlib import Path

import pytest

from flows.commands.cli import main
from tasks.time_limits import FACTOR_VARIABLE


def test_a_wrong_factor_of_the_time_limits_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, "slow")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--runs-dir", str(tmp_path / "runs")])
    assert ended.value.code == 2
    assert "HARVEST_TIME_LIMIT_FACTOR is 'slow'; it must be a number above 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
