"""Bad input gives one line and exit code 2, writes nothing, and imports no heavy library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harvest_command import Tell, environment

# one process for all, as each start takes half a second
WITHOUT_HEAVY_LIBRARIES = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(("prefect", "vllm", "torch", "transformers", "datasets", "rich")))
from flows.commands.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(["run", *arguments])
        except SystemExit as ended:
            code = ended.code
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
REFUSED = [
    (["--profile", "nope"], "unknown profile 'nope'; the shipped ones are"),
    (["--dataset", "missing.jsonl"], "dataset file missing.jsonl does not exist"),
    (["--dataset", "wrong.jsonl"], "no column 'question'; it has 'prompt', 'answer'"),
    (["--model", "./nope"], "model './nope' is not a directory"),
    (["--arms", "twice.toml"], "arm id 'a' appears more than once"),
    (["--questions", "0"], "--questions is '0': input should be greater than or equal to 1"),
    (["--profile", "typo.toml"], "unknown key engine.max_sequences"),
    (["--profile", "retired.toml"], "swap_space is no longer an engine argument"),
    (["--scorer", "nope"], "scorer 'nope' is not known"),
    (["--scorer", "ends:score"], "scorer 'ends:score': module 'ends' cannot be imported (SystemExit"),
    (["--baseline", "nope"], "run 'nope' is neither a run directory nor a run id"),
    (["--max_tokens", "4096"], "--max_tokens is 4096"),
    (
        ["--question", "4"],
        "no such option '--question'. (Did you mean one of: '--epsilon', '--question-col",
    ),
    (["--temperature", "warm"], "--temperature is 'warm': input should be a valid number"),
    (["--upload", "nope://bucket"], "nope"),
]
"""What a user adds to ``harvest run``, and what the line says."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("bad")
    (files / "wrong.jsonl").write_text(json.dumps({"prompt": "1 + 1?", "answer": "2"}) + "\n")
    arm = '[[arms]]\nid = "a"\nsystem_prompt = "x"\n'
    (files / "twice.toml").write_text(arm * 2)
    (files / "typo.toml").write_text('name = "typo"\n[engine]\nmax_sequences = 3\n')
    (files / "retired.toml").write_text('name = "retired"\n[engine]\nswap_space = 4\n')
    (files / "ends.py").write_text("import sys\nsys.exit()\n")
    return files


@pytest.fixture(scope="module")
def refusals(files: Path) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error for each of ``REFUSED``."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY_LIBRARIES, json.dumps([arguments for arguments, _ in REFUSED])],
        cwd=files,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    return [tuple(found) for found in json.loads(ended.stdout)]


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_bad_input_is_refused_in_one_line(refusals: list[tuple[int, str, str]], files: Path, case: int) -> None:
    code, out, err = refusals[case]
    assert code == 2, err
    assert REFUSED[case][1] in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (files / "runs").exists()


def test_an_unknown_command_is_refused(tell: Tell) -> None:
    outcome = tell("scroe")
    assert outcome.code == 2
    assert "no such command 'scroe'. Did you mean 'score'?" in outcome.stderr
