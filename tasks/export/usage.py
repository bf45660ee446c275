"""What the card of an export tells its reader to do, for each target. The tests run its code."""

import json
from typing import Any

from tasks.records import STORED_COLUMNS

_TRL = """\
`prompt_ids`, `completion_ids` and `logprobs` are what a `rollout_func` returns: TRL takes these ids as they are. Rows
of a group follow each other. To train on them with `GRPOTrainer`, run from this directory:

```python
from datasets import Dataset, load_dataset
from trl import GRPOConfig, GRPOTrainer

NUM_GENERATIONS = GROUP_SIZE
rollouts = load_dataset("parquet", data_files="train-*.parquet", split="train")
group_ids = rollouts.select(range(0, len(rollouts), NUM_GENERATIONS))["group_id"][:]
first_row = {group_id: NUM_GENERATIONS * number for number, group_id in enumerate(group_ids)}
# the prompt that TRL passes around is the id of a group, as two groups may ask the same
prompts = Dataset.from_dict({"prompt": group_ids})


def stored_rollouts(prompts, trainer):
    # the prompts of all processes follow each other, every prompt NUM_GENERATIONS times
    start = trainer.accelerator.process_index * len(prompts)
    numbers = [first_row[prompt] + (start + i) % NUM_GENERATIONS for i, prompt in enumerate(prompts)]
    rows = [rollouts[number] for number in numbers]
    return {name: [row[name] for row in rows] for name in ("prompt_ids", "completion_ids", "logprobs", "reward")}


def stored_reward(completions, reward, **kwargs):
    return reward
```

`GRPOTrainer(model, reward_funcs=stored_reward, rollout_func=stored_rollouts, train_dataset=prompts,
args=GRPOConfig(num_generations=NUM_GENERATIONS, ...))` trains on them. An epoch takes every rollout once, but for
groups that do not fill the last batch. After the first step they are off-policy. Set `temperature` to that of the
run."""

_TRL_BEST = """\
The best right rollouts of each group, for supervised fine-tuning with `SFTTrainer`. `input_ids` are the ids of prompt
and completion, as they were sampled; the loss is over the completion alone. Run from this directory:

```python
from datasets import load_dataset

rollouts = load_dataset("parquet", data_files="train-*.parquet", split="train")


def as_example(row):
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


examples = rollouts.map(as_example, remove_columns=rollouts.column_names)
```

`SFTTrainer(model, train_dataset=examples, args=SFTConfig(completion_only_loss=True, ...))` trains on them. With
`rollouts.select_columns(["prompt", "completion"])` TRL would apply the chat template of its own tokenizer."""

_VERL = """\
A row is a rollout; rows of a group follow each other. `prompts`, `responses`, `response_mask`, `rollout_log_probs` and
`rm_scores` have the names and the alignment of an agent loop's output, without padding; `uid` is the group.
Do not give these files to `data.train_files`: verl would sample new answers, and mistake these columns for them. To
train on the stored rollouts, save this as `stored_rollouts.py` in this directory and run it once:

```python
from pathlib import Path

from datasets import load_dataset
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

ROLLOUT_N = GROUP_SIZE
HERE = Path(__file__).resolve().parent
rollouts = load_dataset("parquet", data_files=str(HERE / "train-*.parquet"), split="train")


class StoredRollouts(AgentLoopBase):
    async def run(self, sampling_params, **kwargs):
        row = rollouts[kwargs["extra_info"]["index"] * ROLLOUT_N + kwargs["session_id"]]
        return AgentLoopOutput(
            prompt_ids=row["prompts"],
            response_ids=row["responses"],
            response_mask=row["response_mask"],
            response_logprobs=row["rollout_log_probs"],
            reward_score=row["reward_score"],
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={"min_global_steps": 0, "max_global_steps": 0, "turn_scores": [], "tool_rewards": []},
        )


def as_prompt(row, number):
    return {"extra_info": {**row["extra_info"], "index": number}, "agent_name": "stored_rollouts"}


if __name__ == "__main__":
    groups = rollouts.select(range(0, len(rollouts), ROLLOUT_N))
    prompts = groups.select_columns(["prompt", "data_source", "reward_model", "extra_info"])
    prompts.map(as_prompt, with_indices=True).to_parquet(HERE / "prompts.parquet")
    (HERE / "agent_loops.yaml").write_text("- name: stored_rollouts\\n  _target_: stored_rollouts.StoredRollouts\\n")
```

Then train with this directory in `PYTHONPATH`, the trainer V1 (the default), and these settings:

```
data.train_files=prompts.parquet actor_rollout_ref.rollout.n=GROUP_SIZE
actor_rollout_ref.rollout.agent.agent_loop_config_path=agent_loops.yaml
```

This agent loop gives verl the ids as they were sampled. verl's own agent loops would sample new answers, and give
`prompt` to the chat template. It makes the same ids when `data.apply_chat_template_kwargs` is:

```json
TEMPLATE_KWARGS
```"""

_OPENRLHF = """\
Each row has the fields of an `Experience` of one rollout, without padding: OpenRLHF takes these ids as they are.
`action_mask` and `rollout_log_probs` are one shorter than `sequences`: position t is for token t + 1. Rows of a group
follow each other; set `rollout.n_samples_per_prompt` to GROUP_SIZE. `prompts` is the last message, for the log only.

```python
import torch
from datasets import load_dataset
from openrlhf.trainer.ppo_utils.experience import Experience

STEP = ("sequences", "attention_mask", "action_mask", "rollout_log_probs")
EPISODE = ("rewards", "scores", "response_length", "truncated", "total_length")
rows = load_dataset("parquet", data_files="train-*.parquet", split="train")


def experience(row):
    fields = {name: torch.tensor(row[name]).unsqueeze(0) for name in STEP}
    fields |= {name: torch.tensor([row[name]]) for name in EPISODE}
    info = {"reward": fields["rewards"], "score": fields["scores"]}  # what the trainer logs
    return Experience(**fields, prompts=[row["prompts"]], labels=[row["labels"]], info=info)
```

`experience(row)` is a batch of one. A list of them is what `RemoteExperienceMaker.make_experience_batch` takes."""

_PRIME_RL = """\
Each row has the fields of a `TrainingSample`: prime-rl takes these ids as they are. All lists are as long as
`token_ids`; on prompt tokens `mask` is false and `logprobs` and `advantages` are 0. `advantages` are relative to the
group, over all of its rollouts, exported or not. `reward` is for the reader: a `TrainingSample` has none.

```python
from datasets import load_dataset
from prime_rl.transports.batch.types import TrainingSample

FIELDS = ("token_ids", "mask", "logprobs", "temperatures", "env_name", "advantages")
rows = load_dataset("parquet", data_files="train-*.parquet", split="train")


def training_sample(row):
    return TrainingSample(**{name: row[name] for name in FIELDS})
```

`prepare_batch` in `prime_rl.trainer.batch` packs such samples. In v0.8.0 the type is in `prime_rl.transport.types`."""

_PRIME_RL_REPLAY = (
    _PRIME_RL.replace(
        """reader: a `TrainingSample` has none.
""",
        """reader: a `TrainingSample` has none.
`sampling_mask` has for each token of the completion the ids that it was sampled from, and `routed_experts` the experts
of each token but the last, by layer; a run has those that it stored. The code makes what prime-rl replays of them.
""",
    )
    .replace(
        """from datasets import load_dataset
from prime_rl.transports.batch.types import TrainingSample
""",
        """import numpy as np
from datasets import load_dataset
from prime_rl.transports.batch.types import RoutedExperts, SamplingMask, TrainingSample
""",
    )
    .replace(
        """    return TrainingSample(**{name: row[name] for name in FIELDS})
""",
        """    sample, length = TrainingSample(**{name: row[name] for name in FIELDS}), len(row["token_ids"])
    if (sets := row.get("sampling_mask")) is not None:
        counts = np.zeros(length, dtype=np.int32)  # 0 for tokens that were not sampled
        counts[length - len(sets) :] = [len(ids) for ids in sets]
        ids = np.array([token for ids in sets for token in ids], dtype=np.int32)
        sample.sampling_mask = SamplingMask(ids=ids.tobytes(), counts=counts.tobytes())
    if (known := row.get("routed_experts")) is not None:
        experts = np.zeros((length, *np.shape(known)[1:]), dtype=np.uint16)  # no layer has seen the last token
        experts[: len(known)] = known
        sample.routed_experts = RoutedExperts(data=experts.tobytes(), shape=list(experts.shape), dtype="uint16")
    return sample
""",
    )
)

_ALL = """Every column of the run's rollouts, with their scores."""
_ADVANTAGE = """
`advantage` is (reward - mean) / (standard deviation + 1e-4) within the group: the rollouts of one question under one
arm, exported or not. It is 0 where all rewards are equal, and null without a reward."""

_USAGE = {"trl": _TRL, "verl": _VERL, "openrlhf": _OPENRLHF, "prime-rl": _PRIME_RL, "parquet": _ALL, "jsonl": _ALL}


def usage(manifest: dict[str, Any]) -> str:
    """Return what to do with an export, as Markdown, from the fields of its manifest."""
    filters = manifest["filters"]
    text = _TRL_BEST if manifest["to"] == "trl" and filters["best"] else _USAGE[manifest["to"]]
    if text is _PRIME_RL and {*STORED_COLUMNS} & {*manifest["columns"]}:
        text = _PRIME_RL_REPLAY
    if "```" in text:
        text += f"\n\nThe code was tried with {manifest['source']}."
    text = text.replace("GROUP_SIZE", str(manifest["rollouts_per_group"]))
    text = text.replace("TEMPLATE_KWARGS", json.dumps(manifest["chat_template_kwargs"]))
    text = text + _ADVANTAGE if "advantage" in manifest["columns"] else text
    return text.replace(", exported or not", " that are exported") if filters["group_size"] else text
