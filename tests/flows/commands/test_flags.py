"""An error names the flag that was given, and what may have been meant."""

from pathlib import Path

import pytest

from tests.support.harvest_command import Tell

PROFILE = """
name = "mine"
modle = "demo"
question_batch_size = 0
[engine]
max_sequences = 3
[engine.vllm]
seed = 1
swap_space = 4
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run --n_samples 0", "--n_samples is '0': input should be greater than or equal to 1"),
        ("run --top_p 2", "--top_p is '2': input should be less than or equal to 1"),
        (
            "run --question-batch-size big",
            "--question-batch-size is 'big': give a whole number from 1 to 65,536, or \"auto\"",
        ),
        ("run --max_tokens 4096", "--max_tokens is 4096, but profile cpu-demo has max_model_len 2048"),
        (
            "run --min-tokens 9 --max-tokens 5",
            "error: --min-tokens is 9, above --max-tokens 5. Lower it, or raise --max-",
        ),
        ("run --temperature 0 --samples-per-arm 2", "error: --samples-per-arm is 2 at temperature 0"),
        ("run --sample-until mixed", "error: --sample-until is mixed, but nothing says how many"),
        ("run --wave-size 2", "Give --sample-until, such as mixed, or leave out --wave-size"),
        ("run --sampling-mask", "error: --sampling-mask needs a temperature above 0 and a --top-k of at least 1"),
        (r"run --filter answer~^\d+(", r"--filter 'answer~^\d+(': '^\d+(' is not a regular expression"),
        (r"run --filter x\d", r"--filter 'x\d' is not COLUMN OPERATOR VALUE"),
        (r"run --model \d-*", r"--model '\d-*' matches 0 paths"),
        (
            "run --checkpoints some",
            "--checkpoints is 'some': input should be 'all' or 'newest' (see",
        ),
        ("run --aws-credentials-block A/b", "--aws-credentials-block is not the name of a block"),
        ("run --engine block_size=16 --engine block_size=32", "--engine gives block_size twice"),
        ("run --profile cpu-dmeo", "Did you mean cpu-demo?"),
        ("run --profile profil.toml", "profile profil.toml does not exist. Did you mean profile.toml?"),
        ("run --arms mat8", "Did you mean math8?"),
        ("run --dataset top_k.jsonl", "error: dataset file top_k.jsonl does not exist"),
        ("run --dataset table.csv --max-tokens 8", "has no column 'question'; it has 'max_tokens', 'top_p'. Set --q"),
        ("run --dataset row.jsonl", "dataset file row.jsonl does not exist. Did you mean rows.jsonl?"),
        ("run --dataset nowhere/row.jsonl", "There is no directory nowhere."),
        ("run --model ./modle", "--model './modle' is not a directory. Did you mean model?"),
        ("run --prompt-template templat.txt", "Did you mean template.txt?"),
        ("run --max-tokn 5", "no such option '--max-tokn'. (Did you mean one of: '--max-tokens'"),
        ("shwo x", "no such command 'shwo'. Did you mean 'show'?"),
        ("show", "missing argument 'RUN'"),
        ("show x --right --wrong", "--right and --wrong exclude each other"),
        ("run --stop=", "error: --stop is '': string should have at least 1 character"),
        ("run --stop-token-ids 4 --stop-token-ids -3", "error: --stop-token-ids is -3: input should be"),
        ("run --engine foo=1", "error: --engine: foo is no field of EngineArgs"),
        ("show x --limit -1", "invalid value for '--limit': -1 is not at least 0 (see"),
        ("show x --limit", "option '--limit' requires an argument"),
        (
            "export x --to jsonl --out --json",
            "option '--out' has no value before --json. Give one; if it is",
        ),
        ("run --max_tokens --json", "option '--max_tokens' has no value before --json"),
        ("bench --repeats 0", "invalid value for '--repeats': 0 is not 1 to 1,000 (see"),
        ("export x --out y --to verll", "'verll' is not one of 'verl'"),
    ],
)
def test_it_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell, arguments: str, told: str
) -> None:
    (tmp_path / "model").mkdir()
    for name in ("profile.toml", "rows.jsonl", "template.txt"):
        (tmp_path / name).touch()
    (tmp_path / "table.csv").write_text("max_tokens,top_p\n?,1\n")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    outcome = tell(*arguments.split())
    assert (outcome.code, outcome.stdout, outcome.stderr.count("\n")) == (2, "", 1), outcome.stderr
    assert told in outcome.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_of_a_file_are_told_as_the_file_has_them(tmp_path: Path, tell: Tell) -> None:
    (tmp_path / "mine.toml").write_text(PROFILE)
    outcome = tell("run", "--profile", tmp_path / "mine.toml", "--question-batch-size", "4")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    for problem in (
        "4 problems: (1)",
        "question_batch_size is 0",
        "unknown key modle. Did you mean model?",
        "seed is not",
        "swap_space is no",
    ):
        assert problem in outcome.stderr
    assert "unknown key engine.max_sequences. Did you mean max_num_seqs?" in outcome.stderr
    assert "--question-batch-size" not in outcome.stderr
    (tmp_path / "my arms.toml").write_text('[[arms]]\nid = "a"\nsystem_prompt = ""\nprompt_formt = "chat"\n')
    told = tell("run", "--arms", tmp_path / "my arms.toml", "--prompt-format", "chat").stderr
    assert "unknown key arms.0.prompt_formt. Did you mean prompt_format?" in told


def test_both_spellings_mean_the_same(tmp_path: Path, tell: Tell) -> None:
    asked = ("plan", "--questions", "2", "--json", "--runs-dir", tmp_path)
    assert tell(*asked, "--max_tokens", "8").stdout == tell(*asked, "--max-tokens", "8").stdout
