"""Makes the dataset cards of a run: README.md of the run directory, a dataset repository, and the card for the Hub."""

from pathlib import Path
from typing import Any

import polars as pl

from tasks.comparison.equivalence_report import read_equivalence
from tasks.files import publish_text
from tasks.plain_text import markdown, one_line, visible
from tasks.plan.run_directory import reproduce_command
from tasks.plan.sampling import run_sampling, told_fields, truncation_warning
from tasks.records import LATER_ROLLOUT_COLUMNS, QUESTION_SCHEMA, ROLLOUT_KEY, ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tasks.results.finished_run import read_config
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.metrics import by_group, column_mean
from tasks.results.scored_rollouts import check_scored, load_metric_rows
from tasks.storage.published import recorded_path
from tasks.storage.run_files import known_shards, run_fingerprint, scan_shards

CARD = "README.md"
FOLDERS = {"rollouts": ROLLOUT_SCHEMA, "scores": SCORE_SCHEMA, "questions": QUESTION_SCHEMA}
"""The folders of a run, each a configuration of the dataset, and their schemas; the first is the default."""

MEANINGS = {
    "rollout_id": "unique name: run, question, arm, sample",
    "run_id": "the run",
    "group_id": "rollouts with the same one have the same prompt",
    "example_id": "the question",
    "arm_id": "the system prompt, by name",
    "sample_index": "0 to samples per arm - 1",
    "prompt": "messages as the chat template was given them, or one message of role text",
    "completion": "text, without special tokens; null for an error row",
    "prompt_ids": "prompt token ids",
    "completion_ids": "token ids as sampled",
    "logprobs": "natural logarithm of each sampled token's probability, under the sampling distribution",
    "top_logprob_ids": "most likely token ids per position; null when not stored",
    "top_logprobs": "their log-probabilities",
    "finish_reason": "stop, length or repetition; null for an error row",
    "stop_reason": "the stop string or token, when one ended it",
    "is_truncated": "cut off by max_tokens",
    "error": "why there is no completion; null when there is one",
    "num_prompt_tokens": "length of prompt_ids",
    "num_completion_tokens": "length of completion_ids",
    "ground_truth": "the dataset's answer",
    "temperature": "sampling temperature",
    "top_p": "nucleus sampling mass",
    "top_k": "number of most likely tokens that were sampled from",
    "min_p": "least likelihood of sampled tokens, relative to the most likely one",
    "repetition_penalty": "penalty of tokens that prompt or completion have, 1 for none",
    "presence_penalty": "taken off the logits of tokens that the completion has",
    "frequency_penalty": "the same, for each time that it has them",
    "min_tokens": "shortest completion allowed",
    "stop_token_ids": "token ids that end a completion, besides the model's own",
    "bad_words": "texts that were not generated",
    "sampling_mask": "per token of the completion, the token ids that it was sampled from; null for an error row",
    "routed_experts": "per token but the last, from the prompt on, and per layer, the experts; null for an error row",
    "max_tokens": "longest completion allowed",
    "seed": "the request's own seed",
    "model": "model name",
    "model_revision": "digest or revision of its weights",
    "engine_version": "engine and its version",
    "dtype": "number format of the weights",
    "question_batch_size": "questions in flight when it was generated",
    "max_num_seqs": "most sequences the engine ran at once",
    "oom_rung": "step of the out-of-memory ladder, 0 for none",
    "created_at": "when it finished, UTC",
    "reward": "1 for right, 0 for wrong with the shipped scorers; null for a row that is an error or cannot be scored",
    "extracted_answer": "what was read from the completion",
    "extraction_method": "how it was read",
    "correct_flexible": "the last number is right, whatever its form",
    "gold_suspect": "the ground truth looks wrong",
    "scorer": "which scorer",
    "scorer_version": "and its version",
    "question": "text of the question",
}

_LOAD = """
## Loading

```python
from datasets import concatenate_datasets, load_dataset

RUN = {run_id!r}  # this directory, seen from the one above
rollouts = load_dataset(RUN, split="train")
scores = load_dataset(RUN, "scores", split="train").remove_columns("rollout_id")
scored = concatenate_datasets([rollouts, scores], axis=1)
```

The rows of `rollouts` and `scores` are in the same order. `questions` is the third configuration.
`questions/difficulty.parquet` has the pass rate of each question under each arm, with its interval.
"""


_CARD = """---
license: other
tags:
- rollouts
- reinforcement-learning
- vllm
---

# {run_id}

{rollouts} rollouts of {questions} questions under {arms} system prompts (*arms*), each with token ids,
log-probabilities and a reward.

| | |
| --- | --- |
| model | {model} |
| engine | vLLM {engine} |
| precision | {dtype} |
| sampling | {sampling} |
| scorer | {scorer} |
| error rows | {errors} |
| mean reward | {reward} |
| equivalence to the baseline | {verdict} |
| fingerprint | {fingerprint} |

A group, as group-relative methods such as GRPO normalise over it, is the rows with the same `group_id`. `logprobs` are
natural logarithms under the sampling distribution, one for each of `completion_ids`.
{warning}"""


def publish_card(run_dir: Path) -> Path:
    """Make, publish and return the path of the card of the finished and scored ``run_dir``. Raises ConfigError."""
    path = run_dir / CARD
    publish_text(build_run_card(run_dir), path, recorded_path)
    return path


def build_run_card(run_dir: Path) -> str:
    """Return the card of a run directory: the Hub's card, the configurations, how to load them, columns, provenance."""
    check_scored(run_dir)
    header, text = build_hub_card(run_dir).split("\n---\n", 1)
    parts = [text.rstrip(), _LOAD.format(run_id=run_dir.resolve().name), *_schema(run_dir), *_provenance(run_dir)]
    return visible("\n".join([header, *_configurations(), "---", *parts]) + "\n")


def _configurations() -> list[str]:
    """YAML of the dataset's configurations, written here because a library for cards takes longer to import."""
    lines = ["configs:"]
    for folder in FOLDERS:
        lines += [
            f"- config_name: {folder}",
            "  data_files:",
            "  - split: train",
            f"    path: {folder}/shard-*.parquet",
        ]
        if folder == next(iter(FOLDERS)):
            lines.append("  default: true")
    return lines


def _schema(run_dir: Path) -> list[str]:
    lines = ["## Columns"]
    for folder, schema in FOLDERS.items():
        rows = scan_shards(run_dir, folder).select(pl.len()).collect().item()
        lines += ["", f"### {folder}: {rows:,} rows", "", "| column | type | meaning |", "| --- | --- | --- |"]
        later = _later_columns(run_dir) if folder == "rollouts" else {}
        lines += [f"| {name} | {_type(kind)} | {MEANINGS[name]} |" for name, kind in {**schema, **later}.items()]
    return lines


def _later_columns(run_dir: Path) -> dict[str, Any]:
    found = scan_shards(run_dir, "rollouts").collect_schema()
    return {name: kind for name, kind in LATER_ROLLOUT_COLUMNS.items() if name in found}


def _sampling(run_dir: Path, facts: dict[str, Any]) -> str:
    """Return the sampling of a run in words: what every run has, and what this one sets."""
    parts = [f"temperature {facts['temperature']}", f"top_p {facts['top_p']}"]
    parts += [*told_fields(run_sampling(read_config(run_dir))), f"at most {facts['max_tokens']} tokens"]
    plan = wave_plan_of(run_dir)
    if plan.rule:
        # plain means over such rollouts are biased
        parts.append(f"{plan.ends[0]} to {plan.ends[-1]} samples of a question under an arm, until {plan.rule}")
    return ", ".join(parts)


def _provenance(run_dir: Path) -> list[str]:
    config = read_config(run_dir)
    lines = ["", "## Provenance", ""]
    if "dataset" in config.get("config", {}):
        lines += ["Made by", "", "```", one_line(reproduce_command(config["config"]), 4_000), "```", ""]
    versions = config.get("tested", {}).get("versions", {})
    if versions:
        lines += [", ".join(markdown(f"{name} {version}") for name, version in versions.items()), ""]
    if RunPaths(root=run_dir).report_html.is_file():
        lines.append("`report.html` shows the run on one page; `manifest.json` lists every file with its sha256.")
    return lines


def _type(kind: pl.DataType) -> str:
    match kind:
        case pl.List(inner=inner):
            return f"list of {_type(inner)}"  # type: ignore[arg-type]
        case pl.Struct(fields=fields):
            return "{" + ", ".join(field.name for field in fields) + "}"
    return str(kind).partition("(")[0].lower()


def build_hub_card(run_dir: Path) -> str:
    """Return the card for the Hub, where rollouts and scores are one table: a YAML header and the run's facts."""
    comparison = read_equivalence(run_dir)
    rollouts = scan_shards(run_dir, "rollouts")
    facts: dict[str, Any] = (
        rollouts.select(
            pl.len().alias("rollouts"),
            pl.col(ROLLOUT_KEY[0]).n_unique().alias("questions"),
            pl.col(ROLLOUT_KEY[1]).n_unique().alias("arms"),
            pl.col("error").is_not_null().sum().alias("errors"),
            engine=pl.col("engine_version").first(),
            **{name: pl.col(name).first() for name in ("model", "dtype", "temperature", "top_p", "max_tokens")},
        )
        .collect()
        .row(0, named=True)
    )
    told = truncation_warning(run_sampling(read_config(run_dir)))
    facts["sampling"] = _sampling(run_dir, facts)
    scores = scan_scores(run_dir)
    reward = None if scores is None else _mean_reward(run_dir, scores)
    facts |= {
        "run_id": run_dir.resolve().name,
        "fingerprint": run_fingerprint(run_dir),
        "verdict": "not compared" if comparison is None else comparison.verdict,
        "scorer": "none"
        if scores is None
        else " ".join(scores.select("scorer", "scorer_version").first().collect().row(0)),
        "reward": "none" if reward is None else f"{reward:.4f}",
    }
    warning = f"\nWarning: {markdown(told)}.\n" if told else ""
    return _CARD.format(**{name: markdown(value) for name, value in facts.items()}, warning=warning)


def _mean_reward(run_dir: Path, scores: pl.LazyFrame) -> float | None:
    if wave_plan_of(run_dir).rule:
        rows = load_metric_rows(RunPaths(root=run_dir))
        return column_mean(by_group(rows.filter(pl.col("reward").is_not_null())), "reward")
    reward: float | None = scores.select(pl.col("reward").mean()).collect().item()
    return reward


def scan_scores(run_dir: Path) -> pl.LazyFrame | None:
    """Return the scores of a run, or None for a run that is not scored."""
    if not known_shards(run_dir, "scores"):
        return None
    return scan_shards(run_dir, "scores")
