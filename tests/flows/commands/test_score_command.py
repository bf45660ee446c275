"""``harvest score`` with a scorer of the user that ends, in this process."""

from pathlib import Path

import pytest

from flows.commands.cli import main
from tests.support.synthetic import write_run


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys\nsys.exit()\n", "module 'quits_1' cannot be imported (SystemExit"),
        ("import sys\ndef score(*arguments):\n    sys.exit(0)\n", "failed on ground truth"),
    ],
    ids=["at import", "at a call"],
)
def test_a_scorer_that_exits_does_not_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run").root
    module = f"quits_{1 if 'import' in told else 2}"
    Path(f"{module}.py").write_text(source)
    with pytest.raises(SystemExit) as ended:
        main(["score", str(run), "--scorer", f"{module}:score"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"harvest: error: --scorer '{module}:score'")
    assert told in line
    assert not [path for path in run.glob("scores@*/*") if path.is_file()], "no score is stored"
