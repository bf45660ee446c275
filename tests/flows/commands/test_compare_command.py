"""``harvest compare`` by its exit code, in this process."""

import json
from pathlib import Path

import pytest

from flows.commands.cli import main
from tests.support.synthetic import write_run


@pytest.mark.parametrize("require", ["bitwise", "numerical", "statistical"])
def test_a_run_that_lacks_a_shard_passes_no_requirement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], require: str
) -> None:
    baseline, candidate = (write_run(tmp_path / name, shards=4, arms=2).root for name in ("before", "after"))
    for shard in range(1, 4):
        (candidate / "rollouts" / f"shard-{shard:05d}.parquet").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(baseline), str(candidate), "--require", require, "--json", "--runs-dir", str(tmp_path)])
    assert ended.value.code == 3
    told = capsys.readouterr()
    assert (json.loads(told.out)["verdict"], json.loads(told.out)["meets_required"]) == ("incomplete", False)
    [line] = told.err.splitlines()
    assert f"the verdict is incomplete, {require} was required. the candidate has 8 rollouts, and its" in line
    assert "the candidate lacks 24 of the baseline's 32 rollouts" in line
