"""A function of the user scores rows: whatever it is, returns, raises or does, it costs at most its row."""

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import psutil
import pytest

from tasks.errors import ConfigError
from tasks.scoring.custom_scorer import FAILED
from tasks.scoring.score_shard import score_frame
from tasks.scoring.scorer_process import kept_processes
from tasks.scoring.scorers import load_scorer
from tests.support.patience import SHORT_SECONDS, until

ROWS = pl.DataFrame(
    {
        "rollout_id": ["a", "b"],
        "completion": ["it is 18", "five"],
        "ground_truth": ["18", "18"],
        "finish_reason": "stop",
    }
)
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file with the function ``score``, and return the scorer's name."""

    def write(source: str) -> str:
        (tmp_path / "my_scorer.py").write_text(source)
        return f"{tmp_path / 'my_scorer.py'}:score"

    return write


def scored(name: str, rows: pl.DataFrame = ROWS) -> pl.DataFrame:
    return score_frame(rows, load_scorer(name))


def test_a_function_that_returns_scores() -> None:
    scores = scored("tests.support.custom_scorers:last_word")
    assert scores.select("reward", "extracted_answer", "extraction_method").rows() == [
        (1.0, "18", "last_word"),
        (0.0, "five", "last_word"),
    ]
    assert set(scores.select("scorer", "scorer_version").rows()) == {("tests.support.custom_scorers:last_word", "7")}


def test_a_function_that_returns_rewards() -> None:
    assert scored("tests.support.custom_scorers:length")["reward"].to_list() == pytest.approx([0.8, 0.4])


def test_the_version_is_the_source_hash_when_none_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a module in the working directory is found
    source = "def exact(completion, ground_truth, finish_reason):\n    return float(completion == ground_truth)\n"
    Path("one_scorer.py").write_text(source)
    Path("same_scorer.py").write_text(source)
    versions = [
        load_scorer(name).version for name in ("one_scorer:exact", "same_scorer:exact", "./one_scorer.py:exact")
    ]
    assert len(versions[0]) == 12
    assert len({*versions}) == 1
    Path("one_scorer.py").write_text(source + "# changed\n")
    assert load_scorer("one_scorer:exact").version != versions[0]


def test_a_file_is_named_without_its_directory(write: Write) -> None:
    scores = scored(write("def score(completion):\n    return 1\n"))
    assert set(scores["scorer"]) == {"my_scorer.py:score"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:score", "'no_such_package.module' cannot be imported .ModuleNotFoundError"),
        ("tests.support.custom_scorers:absent", "'absent' does not exist .* it has last_word, length"),
        ("tests.support.custom_scorers:CONSTANT", "'CONSTANT' is not callable"),
        (
            "tests.support.custom_scorers:no_parameters",
            "its parameters are none. A scorer is .* completion",
        ),
        ("tests.support.custom_scorers:", "is not a path"),
        (":length", "is not a path"),
        ("..:score", "scorer '..:score'"),
        ("tests:score", "scorer 'tests:score'"),
        ("nowhere/my_scorer.py:score", "there is no file nowhere/my_scorer.py"),
        ("tests/support/custom_scorer.py:length", "Did you mean tests/support/custom_scorers.py"),
    ],
)
def test_a_bad_path_says_what_is_wrong(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_scorer(path)


BROKEN = {
    "at import": "import sys\nsys.exit()\n",
    "at import, without a text": (
        "class Silent(BaseException):\n    def __str__(self):\n        raise ValueError\nraise Silent()\n"
    ),
    "at lookup": "import sys\ndef __getattr__(name):\n    sys.exit(0)\n",
    "at its signature": (
        "class Score:\n    @property\n    def __signature__(self):\n        raise SystemExit(3)\n"
        "    def __call__(self, *arguments):\n        return 1\nscore = Score()\n"
    ),
    "at its version": (
        "class Version:\n    def __str__(self):\n        raise SystemExit(3)\n"
        "SCORER_VERSION = Version()\ndef score(*arguments):\n    return 1\n"
    ),
    "by half a surrogate in its version": "SCORER_VERSION = '\\ud800'\ndef score(*arguments):\n    return 1\n",
    "by its settings": "SCORER_TIMEOUT = 0\ndef score(*arguments):\n    return 1\n",
    "at import, by the end of the process": "import os\nos._exit(0)\n",
    "at import, by what it writes": (
        "import os, struct, sys\nos.write(int(sys.argv[1]), struct.pack('!i', 1) + b'x')\n"
    ),
    "in every row": "def score(*arguments):\n    raise NotImplementedError\n",
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_scorer_that_is_broken_is_named(source: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"scorer '.*my_scorer.py:score'"):
        scored(write(source))


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("def score(completion:\n", "Fix the module"),
        ("import no_such_package\n", "Install what it needs, or run from the folder that holds it"),
    ],
)
def test_a_failed_import_says_what_to_do_and_names_no_line_of_python_itself(
    source: str, end: str, write: Write
) -> None:
    with pytest.raises(ConfigError, match=rf"cannot be imported .*\. {end}$") as refused:
        load_scorer(write(source))
    assert "<frozen" not in str(refused.value)


RESULTS = [
    # what is returned for a row, its reward, or what its failure says
    ("0.25", 0.25),
    ("True", 1.0),
    ("np.bool_(True)", 1.0),
    ("np.int64(1)", 1.0),
    ("np.float32(1)", 1.0),
    ("np.longdouble(1)", 1.0),
    ("np.array(1.0)", 1.0),
    ("Fraction(1, 2)", 0.5),
    ("Decimal('0.5')", 0.5),
    ("Index()", 1.0),
    ("float('nan')", None),
    ("{'reward': 0.5}", 0.5),
    ("{'score': 0.5, 'acc': True}", 0.5),
    ("{'reward': None}", None),
    ("None", "it returned None"),
    ("'1.0'", "it returned '1.0'"),
    ("np.complex64(1)", "it returned np.complex64"),
    ("np.ones(1)", "it returned array"),
    ("np.array('1.0')", "it returned array"),
    ("float('inf')", "it returned inf"),
    ("10**400", "OverflowError"),
    ("1e300", "OverflowError"),
    ("{'correct': 1}", "it returned a mapping of correct, without reward"),
    ("{'reward': '1'}", "which is neither a finite number"),
    ("{'reward': 1, 'completion': 'x'}", "'completion', which is the name of a column of ours"),
    ("{'reward': 1, 'note': '\\ud800'}", "UnicodeEncodeError"),
    ("fail(KeyError('missing'))", "KeyError: 'missing'"),
    ("fail(SystemExit(3))", "SystemExit: 3"),
    ("fail(KeyboardInterrupt())", "KeyboardInterrupt"),
    ("fail(GeneratorExit())", "GeneratorExit"),
    ("fail(ValueError('\\ud800\\x1b'))", "ValueError"),
    ("score(completion, ground_truth, None)", "RecursionError"),
]
ENDS = [
    ("fail(ZeroDivisionError())", "ZeroDivisionError"),
    ("os._exit(0)", "it ended its process .exit code 0"),
    ("os.kill(os.getpid(), 9)", "it ended its process .SIGKILL"),
    ("os.kill(os.getpid(), 11)", "it ended its process .SIGSEGV"),
    ("threading.Event().wait()", "it took more than"),
    ("1 + 0 * os.fork()", 1.0),
    ("os.write(int(sys.argv[1]), struct.pack('!i', 1) + b'x')", "it wrote to a file descriptor that is not its own"),
    ("os.write(int(sys.argv[1]), struct.pack('!i', 10) + b'{\"id\": 99}')", "it wrote to a file descriptor"),
]
UNREACHED = 600
"""Seconds that a call may take."""
HEADER = """
import os, struct, sys, threading
from decimal import Decimal
from fractions import Fraction
import numpy as np
SCORER_TIMEOUT = {limit}
class Index:
    def __index__(self):
        return 1
def fail(error):
    raise error
"""


@pytest.mark.parametrize("is_async", [False, True])
def test_a_result_or_a_failure_is_that_of_its_row(
    is_async: bool, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    # an asynchronous one that blocks has a test of its own
    cases = [case for case in RESULTS if not (is_async and case[0].startswith("score("))]
    names = [f"row {number}" for number in range(len(cases))]
    rows = pl.DataFrame({"rollout_id": names, "completion": names, "ground_truth": "18", "finish_reason": "stop"})
    lines = [
        f"    if completion == {name!r}:\n        return {case[0]}\n" for name, case in zip(names, cases, strict=True)
    ]
    kind = "async def" if is_async else "def"
    header = HEADER.format(limit=UNREACHED) + ("SCORER_RETRIES = 0\n" if is_async else "")
    scores = scored(write(f"{header}{kind} score(completion, ground_truth, finish_reason):\n{''.join(lines)}"), rows)
    for (returned, expected), row in zip(cases, scores.iter_rows(named=True), strict=True):
        if isinstance(expected, str):
            assert row["reward"] is None, returned
            assert row["extraction_method"].startswith(FAILED), returned
            assert re.search(expected, row["extraction_method"]), (returned, row["extraction_method"])
        else:
            assert (row["reward"], row["extraction_method"]) == (expected, "custom"), returned
    failed = sum(isinstance(expected, str) for _, expected in cases)
    [record] = caplog.records
    assert f"{failed} of {len(cases)} rollouts of a shard have no reward" in record.message


@pytest.mark.parametrize(("returned", "expected"), ENDS, ids=[text for text, _ in ENDS])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_scorer_does_to_its_process_costs_its_row(
    returned: str, expected: float | str | None, is_async: bool, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    if is_async and returned.startswith("threading"):
        return  # an asynchronous one that blocks has a test of its own
    # only a call that never ends may reach the limit
    limit = 2 if returned.startswith("threading") else UNREACHED
    kind = "async def" if is_async else "def"
    scores = scored(
        write(
            HEADER.format(limit=limit)
            + ("SCORER_RETRIES = 0\n" if is_async else "")
            + f"{kind} score(completion, ground_truth, finish_reason):\n"
            + f"    return 0.5 if completion != 'five' else {returned}\n"
        )
    )
    assert scores["reward"][0] == 0.5
    if not isinstance(expected, str):
        assert scores["reward"][1] == expected
        assert scores["extraction_method"][1] == "custom"
        assert not caplog.records
        return
    assert scores["reward"][1] is None
    method = scores["extraction_method"][1]
    assert method.startswith(FAILED)
    assert re.search(expected, method), method
    [record] = caplog.records
    assert "1 of 2 rollouts of a shard have no reward" in record.message
    assert "completion 'five'" in record.message
    if "Error" in expected:
        assert "my_scorer.py:" in record.message


def test_when_all_rows_fail_it_stops_early_with_the_first_error_and_its_line(write: Write, tmp_path: Path) -> None:
    rows = pl.concat([ROWS] * 500)
    name = write(
        "def score(completion):\n    with open(__file__ + '.calls', 'a') as calls:\n        calls.write('x')\n"
        "    return 1 / 0  # here\n"
    )
    with pytest.raises(
        ConfigError, match=r"ZeroDivisionError: division by zero, at my_scorer.py:4: return 1 / 0"
    ) as raised:
        scored(name, rows)
    assert "all 16 rollouts that were tried, of 1,000 of a shard" in str(raised.value)
    assert len((tmp_path / "my_scorer.py.calls").read_text()) == 16


def test_the_first_rows_alone_may_fail(write: Write) -> None:
    rows = pl.concat([ROWS.filter(completion="five")] * 30 + [ROWS.filter(completion="it is 18")] * 30)
    scores = scored(write("def score(completion):\n    return {'it is 18': 1}[completion]\n"), rows)
    assert scores["reward"].to_list() == [None] * 30 + [1.0] * 30


FORMS = [
    ("def score(completion): return completion == 'five'", [0, 1]),
    ("def score(text, truth, reason): return len(text) + len(truth) + len(reason)", [14, 10]),
    ("def score(*texts): return len(texts)", [3, 3]),
    ("def score(ground_truth, completion, /): return ground_truth in completion", [1, 0]),
    ("def score(completion, arm, question, prompt): return len(arm) + len(question) + len(prompt)", [7, 7]),
    ("def score(completion, level, other='none'): return level if other == 'none' else 0", [3, 3]),
    ("def score(completion, **more): return more['level'] + len(more['arm'])", [5, 5]),
    ("async def score(completion): return len(completion)", [8, 4]),
    ("class S:\n  async def __call__(self, completion): return len(completion)\nscore = S()", [8, 4]),
    ("def score(completions, ground_truths, arms): return [len(c + g + a) for c, g, a in "
     "zip(completions, ground_truths, arms)]", [12, 8]),
    ("async def score(completions, ground_truths): return [len(c) for c in completions]", [8, 4]),
    ("def score(completions, ground_truths): return [{'reward': len(c)} for c in completions]", [8, 4]),
    ("import numpy as np\ndef score(completions, ground_truths): return np.array([1.0, 2.0])", [1, 2]),
    # TRL: chats are messages, columns of the dataset are lists
    ("def score(completions, **kwargs): return [len(c[0]['content']) for c in completions]", [8, 4]),
    ("def score(prompts, completions, completion_ids, ground_truth, level, trainer_state=None):\n"
     "  return [p[0]['content'] == 'Q?' and len(i) + int(g) + l for p, i, g, l in "
     "zip(prompts, completion_ids, ground_truth, level)]", [23, 24]),
    ("def score(completions, **kwargs): return [None, 1.0]", [None, 1]),
    ("async def score(completions, **kwargs): return [2.0, 1.0]", [2, 1]),
    # verl
    ("def score(data_source, solution_str, ground_truth, extra_info=None): return len(solution_str) + "
     "len(extra_info['arm_id'])", [10, 6]),
    ("def score(solution_str, ground_truth): return {'score': ground_truth in solution_str, 'pred': 'x'}", [1, 0]),
    ("def score(data_sources, solution_strs, ground_truths, extra_infos):\n"
     "  return [len(s) for s in solution_strs]", [8, 4]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "rewards"), FORMS, ids=[source for source, _ in FORMS])
def test_every_form_of_a_function_gets_what_it_names(source: str, rewards: list[float | None], write: Write) -> None:
    rows = ROWS.with_columns(
        arm_id=pl.lit("ab"),
        question=pl.lit("Why?"),
        example_id=pl.lit("e"),
        prompt=pl.lit([{"role": "user", "content": "Q?"}]),
        completion_ids=pl.Series([[1, 2], [1, 2, 3]]),
        row=pl.lit(json.dumps({"level": 3})),
    )
    assert scored(write(source), rows)["reward"].to_list() == rewards


def test_a_plain_prompt_is_text_for_a_function_of_trl(write: Write) -> None:
    rows = ROWS.with_columns(prompt=pl.lit([{"role": "text", "content": "Q: "}]))
    name = write("def score(prompts, completions): return [len(p + c) for p, c in zip(prompts, completions)]\n")
    assert scored(name, rows)["reward"].to_list() == [11, 7]


def test_a_batch_that_fails_is_scored_row_by_row(write: Write) -> None:
    rows = pl.concat([ROWS] * 40)
    name = write(
        "import os\n"
        "def score(completions, ground_truths):\n    if 'five' in completions:\n        os._exit(1)\n"
        "    return [1.0 for _ in completions]\n"
    )
    # a process is started again for each row that ends it
    assert scored(name, rows.head(6))["reward"].to_list() == [1.0, None] * 3
    counted = write("def score(completions, ground_truths): return [1.0] * 3\n")
    with pytest.raises(ConfigError, match="it returned 3 results for 1 completions"):
        scored(counted, ROWS)


def test_our_names_do_not_take_the_place_of_the_users_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tasks", "tests", "profiles"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("MINE = 1\n")
    (tmp_path / "tests" / "helper.py").write_text("MINE = 2\n")
    (tmp_path / "profiles.py").write_text("MINE = 4\n")
    (tmp_path / "profiles").rmdir()
    source = "import tasks, profiles\nfrom tests.helper import MINE\n"
    source += "def score(completion):\n    return tasks.MINE + MINE + profiles.MINE\n"
    (tmp_path / "tasks" / "rewards.py").write_text(source)
    (tmp_path / "mine.py").write_text(source)
    for name in ("mine:score", "mine.py:score", "tasks.rewards:score"):
        assert scored(name)["reward"].to_list() == [7, 7]


def test_extra_columns_have_the_narrowest_type_of_a_shard(write: Write) -> None:
    name = write(
        "def score(completion):\n"
        "    first = {'reward': 1, 'extracted_answer': 18, 'n': 1, 'ok': True, 'mixed': 0.5, 'all': [1], 'only': 'x'}\n"
        "    other = {'reward': 0, 'n': 2.5, 'ok': False, 'mixed': 'low', 'all': {}, 'position': 3}\n"
        "    return first if completion != 'five' else other\n"
    )
    error_row = ROWS.head(1).with_columns(completion=pl.lit(None, pl.String))
    with_error = scored(name, pl.concat([error_row, ROWS]))
    assert with_error["position"].to_list() == [None, None, 3.0]
    scores = with_error.tail(2)
    assert scores["extracted_answer"].to_list() == ["18", None]
    assert scores.select("all", "mixed", "n", "ok", "only").schema == {
        "all": pl.String,
        "mixed": pl.String,
        "n": pl.Float64,
        "ok": pl.Boolean,
        "only": pl.String,
    }
    assert scores.select("all", "mixed", "n", "ok", "only").rows() == [
        ("[1]", "0.5", 1.0, True, "x"),
        ("{}", "low", 2.5, False, None),
    ]


def test_what_it_prints_is_not_in_what_a_command_prints(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    scored(write("def score(completion):\n    print('noise')\n    return 1\n"))
    assert "noise" not in capfd.readouterr().out


@pytest.mark.parametrize("body", ["await asyncio.sleep(3600)", "threading.Event().wait()"])
def test_an_asynchronous_call_that_hangs_costs_its_row(body: str, write: Write) -> None:
    name = write(
        f"import asyncio, threading\nSCORER_TIMEOUT = {SHORT_SECONDS * 10}\nSCORER_RETRIES = 0\n"
        f"async def score(completion):\n    if completion == 'five':\n        {body}\n    return 1.0\n"
    )
    scores = scored(name)
    assert scores["reward"].to_list() == [1.0, None]
    assert "it took more than" in scores["extraction_method"][1]


def test_asynchronous_calls_are_bounded_repeated_and_remembered(write: Write, tmp_path: Path) -> None:
    name = write(
        "import asyncio\nfrom collections import Counter\n"
        "SCORER_CONCURRENCY = 3\nSCORER_RETRIES = 1\nSTATE = Counter()\n"
        "async def score(completion, rollout_id):\n"
        "    STATE['now'] += 1\n    STATE['most'] = max(STATE['most'], STATE['now'])\n    STATE[rollout_id] += 1\n"
        "    with open(__file__ + '.calls', 'a') as calls:\n        calls.write('x')\n"
        "    try:\n        await asyncio.sleep(0)\n"
        "        if rollout_id == '5' and STATE[rollout_id] == 1:\n            raise OSError('busy')\n"
        "        return {'reward': 1.0, 'most': STATE['most']}\n"
        "    finally:\n        STATE['now'] -= 1\n"
    )
    rows = pl.concat([ROWS] * 10).with_columns(rollout_id=pl.int_range(pl.len()).cast(pl.String))
    scorer = load_scorer(name)
    kept = scorer.__class__(**{**vars(scorer), "state": tmp_path / "state"})
    scores = score_frame(rows, kept)
    assert scores["reward"].to_list() == [1.0] * 20
    assert max(scores["most"].to_list()) <= 3
    calls = tmp_path / "my_scorer.py.calls"
    assert len(calls.read_text()) == 21
    again = score_frame(rows, kept)
    assert again.equals(scores)
    assert len(calls.read_text()) == 21
    # a cache that is damaged begins anew
    (tmp_path / "state" / "judge_cache.sqlite").write_bytes(os.urandom(5_000))
    assert score_frame(rows, kept)["reward"].to_list() == [1.0] * 20


def test_shards_share_a_process_that_nothing_went_wrong_with(write: Write) -> None:
    source = """
import os


def score(completion):
    if completion == "five":
        os._exit(3)
    return {"reward": 1.0, "process": os.getpid()}
"""
    name = write(source)
    right, wrong = ROWS.head(1), ROWS
    with kept_processes():
        first, again = (scored(name, right)["process"].item() for _ in range(2))
        assert first == again
        assert scored(name, wrong)["reward"].to_list() == [1.0, None]
        # the one that ended is replaced, and so is one whose file has changed
        third = scored(name, right)["process"].item()
        assert third != first
        path = Path(name.partition(":")[0])
        second = path.stat().st_mtime_ns // 10**9 * 10**9
        write(source.replace("1.0", "2.0"))
        # of the same second and size, which is all that Python compares with its bytecode
        os.utime(path, ns=(second, second))
        changed = scored(name, right)
        assert changed["reward"].item() == 2.0
        assert changed["process"].item() != third
    assert not any(psutil.pid_exists(int(process)) for process in (first, third, changed["process"].item()))


def test_the_end_of_kept_processes_does_not_wait_for_an_import(write: Write) -> None:
    name = write(
        "import pathlib, threading\n"
        "imports = pathlib.Path(__file__).with_suffix('.imports')\n"
        "with imports.open('a') as file:\n    file.write('x')\n"
        "if imports.stat().st_size == 2:\n    threading.Event().wait()\n"
        "def score(completion):\n    return 1\n"
    )
    imports = Path(name.partition(":")[0]).with_suffix(".imports")
    scorer = load_scorer(name)
    with ThreadPoolExecutor() as threads:
        with kept_processes():
            scores = threads.submit(score_frame, ROWS, scorer)
            until(lambda: imports.stat().st_size == 2, "the module is imported again")
        # what waited for it has a process of its own now
        assert scores.result()["reward"].to_list() == [1, 1]


def test_a_process_in_which_a_call_took_too_long_is_not_kept(write: Write) -> None:
    name = write(
        f"import asyncio, os\nSCORER_TIMEOUT = {SHORT_SECONDS * 10}\nSCORER_RETRIES = 0\n"
        "async def score(completion):\n"
        "    if completion == 'five':\n"
        "        await asyncio.Event().wait()\n"
        "    return {'reward': 1, 'process': os.getpid()}\n"
    )
    with kept_processes():
        late = scored(name)
        assert late["reward"].to_list() == [1.0, None]
        assert scored(name, ROWS.head(1))["process"][0] != late["process"][0]
