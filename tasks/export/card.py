"""Makes the README.md of an export: its contents, and the code with which a trainer reads it."""

from typing import Any

from tasks.plain_text import markdown

_HEADER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*{suffix}
tags:
- rollouts
- reinforcement-learning
---

# {run_id} for {to}

{rollouts} rollouts in {groups} groups, of {rollouts_read} that the run holds. Columns as {source} reads them; token ids
as they were sampled. Fingerprint of the run: {fingerprint}.

Left out: {dropped}. Filters: {filters}.

{usage}
"""

_TRL = """\
`prompt_ids`, `completion_ids` and `logprobs` are what a `rollout_func` returns; rows of a group follow each other. To
train on them with `GRPOTrainer`, run from this directory with a batch that holds whole groups:

```python
import json

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

NUM_GENERATIONS = {rollouts_per_group}
rollouts = load_dataset("parquet", data_files="train-*.parquet", split="train")
groups = {{}}
for row in rollouts:
    groups.setdefault(json.dumps(row["prompt"]), []).append(row)


def stored_rollouts(prompts, trainer):
    # the prompts of all processes follow each other, every prompt NUM_GENERATIONS times
    first = trainer.accelerator.process_index * len(prompts)
    rows = [groups[json.dumps(prompt)][(first + i) % NUM_GENERATIONS] for i, prompt in enumerate(prompts)]
    return {{name: [row[name] for row in rows] for name in ("prompt_ids", "completion_ids", "logprobs", "reward")}}


def stored_reward(completions, reward, **kwargs):
    return reward


prompts = rollouts.select(range(0, len(rollouts), NUM_GENERATIONS)).select_columns(["prompt"])
```

`GRPOTrainer(model, reward_funcs=stored_reward, rollout_func=stored_rollouts, train_dataset=prompts,
args=GRPOConfig(num_generations=NUM_GENERATIONS, ...))` trains on them; after the first step they are off-policy."""

_VERL = """`prompt`, `data_source`, `reward_model` and `extra_info` are the columns of `RLHFDataset`
(`data.train_files=train-*.parquet`). `prompts`, `responses`, `response_mask`, `rollout_log_probs` and `rm_scores` have
the names and the alignment of an agent loop's output, without padding; `uid` is the group."""

_OPENRLHF = """\
Each row has the fields of an `Experience` of one rollout, without padding. `action_mask` and `rollout_log_probs`
are one shorter than `sequences`: position t is for token t + 1. Rows of a group follow each other.

```python
import torch
from datasets import load_dataset

STEP = ("sequences", "attention_mask", "action_mask", "rollout_log_probs")
EPISODE = ("rewards", "scores", "response_length", "truncated", "total_length")
rows = load_dataset("parquet", data_files="train-*.parquet", split="train")


def experience_fields(row):
    tensors = {name: torch.tensor(row[name]).unsqueeze(0) for name in STEP}
    tensors |= {name: torch.tensor([row[name]]) for name in EPISODE}
    return tensors | {"prompts": [row["prompts"]], "labels": [row["labels"]]}
```

`Experience(**experience_fields(row))` is then a batch of one."""

_PRIME_RL = """\
Each row has the fields of a `TrainingSample`: `TrainingSample(**row)`. All lists are as long as `token_ids`; on prompt
tokens `mask` is false and `logprobs` and `advantages` are 0. `advantages` are relative to the group, over all of its
rollouts, exported or not. Rollouts sampled with top_p below 1 need prime-rl's sampling mask, which is not stored."""

_ALL = """Every column of the run's rollouts, with their scores."""
_ADVANTAGE = """
`advantage` is (reward - mean) / (standard deviation + 1e-4) within the group: the rollouts of one question under one
arm, exported or not. It is 0 where all rewards are equal, and null without a reward."""

_USAGE = {"trl": _TRL, "verl": _VERL, "openrlhf": _OPENRLHF, "prime-rl": _PRIME_RL, "parquet": _ALL, "jsonl": _ALL}


def export_card(manifest: dict[str, Any], suffix: str) -> str:
    """Return the card of an export, from the fields of its manifest. Its files have the ``suffix``."""
    filters = {name: value for name, value in manifest["filters"].items() if value not in (None, False, ())}
    usage = _USAGE[manifest["to"]]
    if manifest["to"] == "trl":
        usage = usage.format(rollouts_per_group=manifest["rollouts_per_group"])
    if "advantage" in manifest["columns"]:
        usage += _ADVANTAGE
    return _HEADER.format(
        **{
            **{name: markdown(value) for name, value in manifest.items()},
            "suffix": suffix,
            "dropped": markdown(
                ", ".join(f"{count} ({reason})" for reason, count in manifest["dropped"].items()) or "nothing"
            ),
            "filters": markdown(", ".join(f"{name}={value}" for name, value in filters.items()) or "none"),
            "usage": usage,
        }
    )
