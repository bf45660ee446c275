"""Bad input gives one line and exit code 2, writes nothing, and imports no heavy library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harvest_command import environment, harvest

WITHOUT_HEAVY_LIBRARIES = """
import sys
sys.modules.update(dict.fromkeys(("prefect", "vllm", "torch", "transformers", "datasets", "rich")))
from flows.commands.cli import main
main()
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "wrong.jsonl").write_text(json.dumps({"prompt": "1 + 1?", "answer": "2"}) + "\n")
    arm = '[[arms]]\nid = "a"\nsystem_prompt = "x"\n'
    (tmp_path / "twice.toml").write_text(arm * 2)
    (tmp_path / "typo.toml").write_text('name = "typo"\n[engine]\nmax_sequences = 3\n')
    (tmp_path / "retired.toml").write_text('name = "retired"\n[engine]\nswap_space = 4\n')
    (tmp_path / "ends.py").write_text("import sys\nsys.exit()\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--profile", "nope"], "unknown profile 'nope'; the shipped ones are"),
        (["--dataset", "missing.jsonl"], "dataset file missing.jsonl does not exist"),
        (["--dataset", "wrong.jsonl"], "no column 'question'; it has prompt, answer"),
        (["--model", "./nope"], "model './nope' is not a directory"),
        (["--arms", "twice.toml"], "arm id 'a' appears more than once"),
        (["--questions", "0"], "dataset.questions is 0"),
        (["--profile", "typo.toml"], "unknown key engine.max_sequences"),
        (["--profile", "retired.toml"], "swap_space is no longer an engine argument"),
        (["--scorer", "nope"], "scorer 'nope' is not known"),
        (["--scorer", "ends:score"], "scorer 'ends:score': module 'ends' cannot be imported (SystemExit)"),
        (["--baseline", "nope"], "run 'nope' is neither a run directory nor a run id"),
        (["--max-tokens", "4096"], "max_tokens is 4096"),
        (["--temperature", "warm"], "invalid float value: 'warm'"),
        (["--upload", "nope://bucket"], "nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(files: Path, arguments: list[str], told: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY_LIBRARIES, "run", *arguments],
        cwd=files,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2, outcome.stderr
    assert told in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
    assert not (files / "runs").exists()


def test_an_unknown_command_is_refused() -> None:
    outcome = harvest("harvst")
    assert outcome.code == 2
    assert "invalid choice" in outcome.stderr
