"""The Parquet schemas and file paths of a run, declared once because every stage uses them."""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

_Types = dict[str, pl.DataType | type[pl.DataType]]

QUESTION_SCHEMA = pl.Schema(
    {
        "example_id": pl.String,
        "question": pl.String,
        "ground_truth": pl.String,
    }
)

_MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})

_ROLLOUT_TYPES: _Types = {
    "rollout_id": pl.String,
    "run_id": pl.String,
    "group_id": pl.String,
    "example_id": pl.String,
    "arm_id": pl.String,
    "sample_index": pl.Int32,
    "prompt": pl.List(_MESSAGE),
    "completion": pl.String,
    "prompt_ids": pl.List(pl.Int32),
    "completion_ids": pl.List(pl.Int32),
    "logprobs": pl.List(pl.Float32),
    "top_logprob_ids": pl.List(pl.List(pl.Int32)),
    "top_logprobs": pl.List(pl.List(pl.Float32)),
    "finish_reason": pl.String,
    "stop_reason": pl.String,
    "is_truncated": pl.Boolean,
    "error": pl.String,
    "num_prompt_tokens": pl.Int32,
    "num_completion_tokens": pl.Int32,
    "ground_truth": pl.String,
    "temperature": pl.Float64,
    "top_p": pl.Float64,
    "max_tokens": pl.Int32,
    "seed": pl.Int64,
    "model": pl.String,
    "model_revision": pl.String,
    "engine_version": pl.String,
    "dtype": pl.String,
    "question_batch_size": pl.Int32,
    "max_num_seqs": pl.Int32,
    "oom_rung": pl.Int32,
    "created_at": pl.Datetime("us", "UTC"),
}
ROLLOUT_SCHEMA = pl.Schema(_ROLLOUT_TYPES)
"""One row per rollout. ``logprobs`` are natural logarithms of the sampled tokens' probabilities under the sampling
distribution (vLLM ``processed_logprobs``), as long as ``completion_ids``. ``top_logprob_ids``/``top_logprobs`` hold
the k most likely tokens per position, or null when the run did not store them. An error row has ``error`` set,
``completion`` null, empty token lists and a null ``finish_reason``."""

SAMPLING_COLUMNS: _Types = {
    "top_k": pl.Int32,
    "min_p": pl.Float64,
    "repetition_penalty": pl.Float64,
    "presence_penalty": pl.Float64,
    "frequency_penalty": pl.Float64,
    "min_tokens": pl.Int32,
    "stop_token_ids": pl.List(pl.Int32),
    "bad_words": pl.List(pl.String),
}
STORED_COLUMNS: _Types = {
    "sampling_mask": pl.List(pl.List(pl.Int32)),
    "routed_experts": pl.List(pl.List(pl.List(pl.UInt16))),
}
LATER_ROLLOUT_COLUMNS = SAMPLING_COLUMNS | STORED_COLUMNS
"""Columns of rollouts, after all others, that a run has only if it sets what they tell: ``SAMPLING_COLUMNS`` where they
are not at their default, ``STORED_COLUMNS`` where the run stores them. So the files of a run are alike, also when an
earlier version began it. ``sampling_mask`` has for each token of the completion the ids that it was sampled from, and
``routed_experts`` has shape (tokens, layers, experts per token); both are null for an error row."""


def are_rollouts(schema: pl.Schema) -> bool:
    """Return whether the columns are those of a run's rollouts, in order, with or without the later ones."""
    found = {name: kind for name, kind in LATER_ROLLOUT_COLUMNS.items() if name in schema}
    return list(schema.items()) == list(pl.Schema(_ROLLOUT_TYPES | found).items())


SCORE_SCHEMA = pl.Schema(
    {
        "rollout_id": pl.String,
        "reward": pl.Float32,
        "extracted_answer": pl.String,
        "extraction_method": pl.String,
        "correct_flexible": pl.Boolean,
        "gold_suspect": pl.Boolean,
        "scorer": pl.String,
        "scorer_version": pl.String,
    }
)
"""One row per rollout; ``reward`` is null for an error row."""

ROLLOUT_KEY = ("example_id", "arm_id", "sample_index")
"""Columns that identify a rollout in every run."""

WAVE_STEP = 1_000_000
"""A later wave of samples of a shard has files of its own. Its index is that of the shard plus this for each wave, so
that whatever takes a shard takes a wave as well: 2_000_003 is the second later wave of shard 3. A run has fewer
shards."""
_SHARD_FILE = re.compile(r"^shard-(\d{5,6})(?:-w(0[1-9]|[1-9]\d+))?\.parquet$")


def wave_of(index: int) -> int:
    """Return which wave the index is of: 0 for the first samples of a shard."""
    return index // WAVE_STEP


def shard_of(index: int) -> int:
    """Return the index of the shard of which the index is a wave."""
    return index % WAVE_STEP


def shard_stem(index: int) -> str:
    """Return the name of a shard's files without suffix: "shard-00003", or "shard-00003-w02" of a later wave."""
    wave = f"-w{wave_of(index):02d}" if wave_of(index) else ""
    return f"shard-{shard_of(index):05d}{wave}"


def is_shard_file(name: str) -> bool:
    """Return whether ``name`` is that of a file of a shard, or of one of its later waves."""
    return _SHARD_FILE.match(name) is not None


def first_file(name: str) -> str:
    """Return the name of the first file of a shard, given that of one of its waves; another name as it is."""
    return f"{shard_stem(shard_of(shard_index(Path(name))))}.parquet" if _SHARD_FILE.match(name) else name


def shard_label(index: int) -> str:
    """Return what messages call a shard: "3", or "3 wave 2"."""
    return f"{shard_of(index)} wave {wave_of(index)}" if wave_of(index) else str(index)


WAVES = "waves"
"""The folder, in a run's state, of what the later waves of samples ask."""
DIFFICULTY = "questions/difficulty.parquet"
"""The pass rates of a run's groups, in the run directory."""
OWN_SCORES = "scores"
"""The folder of the run's own scores."""
SET_PREFIX = "scores@"
"""Begins the folder of another set of scores, with another scorer; its name follows."""


def folder_kind(folder: str) -> str:
    """Return what the shard files in a folder of a run are: the folder's name, and "scores" for each set of scores."""
    return OWN_SCORES if folder.startswith(SET_PREFIX) else folder


@dataclass(frozen=True, kw_only=True)
class RunPaths:
    """The paths of a run's files; ``root`` is ``RUNS_DIR/RUN_ID``.

    ``scores_folder`` is that of the set of scores that is meant. Another set than the run's own has a report and a
    comparison of its own in there.
    """

    root: Path
    scores_folder: str = OWN_SCORES

    @property
    def are_own_scores(self) -> bool:
        return self.scores_folder == OWN_SCORES

    @property
    def _of_scores(self) -> Path:
        return self.root if self.are_own_scores else self.root / self.scores_folder

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.json"

    @property
    def preflight(self) -> Path:
        return self.root / "preflight.json"

    @property
    def equivalence(self) -> Path:
        return self._of_scores / "equivalence.json"

    @property
    def mismatch(self) -> Path:
        return self.root / "mismatch.json"

    @property
    def difficulty(self) -> Path:
        return self.root / DIFFICULTY if self.are_own_scores else self._of_scores / Path(DIFFICULTY).name

    @property
    def report(self) -> Path:
        return self._of_scores / "report.json"

    @property
    def report_html(self) -> Path:
        return self._of_scores / "report.html"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def telemetry(self) -> Path:
        return self.root / "telemetry.parquet"

    @property
    def upload_record(self) -> Path:
        return self.root / "upload_receipt.json"

    @property
    def end(self) -> Path:
        return self.state / "end.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def questions(self, index: int) -> Path:
        """What is asked: the questions of a shard or, of a later wave, those that need more samples."""
        folder = self.state / WAVES if wave_of(index) else self.root / "questions"
        return folder / f"{shard_stem(index)}.parquet"

    def rollouts(self, index: int) -> Path:
        return self.root / "rollouts" / f"{shard_stem(index)}.parquet"

    def scores(self, index: int) -> Path:
        return self.root / self.scores_folder / f"{shard_stem(index)}.parquet"

    def journal(self, index: int) -> Path:
        return self.state / "journal" / f"{shard_stem(index)}.jsonl"

    def settled(self, index: int) -> Path:
        """Of a shard without a group that needs more samples: how many waves it has."""
        return self.state / "settled" / f"{shard_stem(index)}.json"


def shard_indices(directory: Path) -> list[int]:
    """Return the indices of the published shard files in ``directory``: shard by shard, wave by wave."""
    found = [shard_index(path) for path in directory.glob("shard-*.parquet") if _SHARD_FILE.match(path.name)]
    return sorted(found, key=lambda index: (shard_of(index), index))


def shard_index(path: Path) -> int:
    """Return the index of a shard file, from its name. Raises ValueError for another name."""
    if match := _SHARD_FILE.match(path.name):
        return int(match.group(1)) + WAVE_STEP * int(match.group(2) or 0)
    raise ValueError(f"{path.name} is not the name of a shard")
