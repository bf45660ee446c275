"""Makes the columns that each trainer reads, from scored rollouts. Token ids stay as they were sampled.

A new trainer needs a function and an entry in FORMATS here, and the usage text of its card in ``usage.py``. The columns
and the code of the cards were checked against these sources:

- verl 0.9.1: ``verl/experimental/agent_loop/agent_loop.py`` (``AgentLoopBase``, ``AgentLoopOutput``),
  ``verl/trainer/ppo/v1/agent_loop_tq.py``, and ``verl/utils/dataset/rl_dataset.py`` (``RLHFDataset``).
- TRL 1.16.0: ``trl/trainer/grpo_trainer.py`` (``RolloutFunc``, ``GRPOTrainer._generate``).
- OpenRLHF 0.11.2: ``openrlhf/trainer/ppo_utils/experience.py`` (``Experience``), ``experience_maker.py``,
  ``samples_generator.py``, and ``openrlhf/trainer/ppo_trainer.py`` (``train_step``).
- prime-rl at commit 0f59b24: ``src/prime_rl/transports/batch/types.py`` (``TrainingSample``, ``SamplingMask``,
  ``RoutedExperts``), and ``orchestrator/trajectories.py``, which pads both to the length of ``token_ids``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from tasks.plan.prompts import TEXT
from tasks.records import STORED_COLUMNS

PromptUse = Literal["ids", "one kind", "messages"]
"""What a trainer does with prompts: takes their token ids; the same, but its column holds either chats or texts; or
gives their messages to the chat template, which makes the ids of the run only under the run's settings."""


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """The files of one target."""

    name: str
    source: str
    """The trainer's version; the columns were checked against its code."""
    columns: Callable[[pl.DataFrame, str], pl.DataFrame]
    """Makes the columns from filtered rollouts and the name of their dataset, one row per rollout."""
    suffix: str = ".parquet"
    prompts: PromptUse = "ids"
    for_training: bool = True
    """Whether every row needs a completion and a reward."""
    needs_group: bool = False
    """Whether the trainer compares the rollouts of a group, so that a group needs two or more."""
    equal_groups: bool = False
    """Whether the trainer splits the rows into groups of equal size."""
    advantages: bool = False
    """Whether ``columns`` needs the column ``advantage``."""


def _verl(rollouts: pl.DataFrame, data_source: str) -> pl.DataFrame:
    tokens = pl.col("num_completion_tokens")
    return rollouts.select(
        "prompt",
        data_source=pl.lit(data_source),
        reward_model=pl.struct(style=pl.lit("rule"), ground_truth="ground_truth"),
        extra_info=pl.struct("example_id", "arm_id", "sample_index", "rollout_id", "is_truncated"),
        uid="group_id",
        prompts="prompt_ids",
        responses="completion_ids",
        response_mask=_repeat(1, tokens, pl.Int8),
        rollout_log_probs="logprobs",
        # an outcome reward belongs to the last token
        rm_scores=pl.concat_list(_repeat(0.0, tokens - 1, pl.Float32), pl.col("reward").cast(pl.Float32)),
        reward_score="reward",
    )


def _trl(rollouts: pl.DataFrame, data_source: str) -> pl.DataFrame:
    first = pl.col("prompt").list.first().struct
    is_plain = rollouts.select(first.field("role") == TEXT).to_series().any()
    return rollouts.select(
        # TRL's standard format for text that is completed, its conversational one for chats
        first.field("content").alias("prompt") if is_plain else pl.col("prompt"),
        pl.col("completion")
        if is_plain
        else pl.concat_list(pl.struct(role=pl.lit("assistant"), content="completion")).alias("completion"),
        "prompt_ids",
        "completion_ids",
        "logprobs",
        "reward",
        "ground_truth",
        "group_id",
        "arm_id",
        "rollout_id",
    )


def _openrlhf(rollouts: pl.DataFrame, data_source: str) -> pl.DataFrame:
    total = pl.col("num_prompt_tokens") + pl.col("num_completion_tokens")
    # position t of the mask and the log-probabilities is for the token t + 1 of the sequence
    context = pl.col("num_prompt_tokens") - 1
    return rollouts.select(
        sequences=pl.concat_list("prompt_ids", "completion_ids"),
        attention_mask=_repeat(1, total, pl.Int8),
        action_mask=pl.concat_list(_repeat(0, context, pl.Int8), _repeat(1, "num_completion_tokens", pl.Int8)),
        rollout_log_probs=pl.concat_list(_repeat(0.0, context, pl.Float32), "logprobs"),
        rewards="reward",
        scores="reward",
        response_length="num_completion_tokens",
        truncated="is_truncated",
        total_length=total,
        prompts=pl.col("prompt").list.last().struct.field("content"),
        labels="ground_truth",
    )


def _prime_rl(rollouts: pl.DataFrame, data_source: str) -> pl.DataFrame:
    prompt, completion = pl.col("num_prompt_tokens"), pl.col("num_completion_tokens")
    return rollouts.select(
        token_ids=pl.concat_list("prompt_ids", "completion_ids"),
        mask=pl.concat_list(_repeat(False, prompt, pl.Boolean), _repeat(True, completion, pl.Boolean)),
        logprobs=pl.concat_list(_repeat(0.0, prompt, pl.Float32), "logprobs"),
        temperatures=pl.col("temperature").cast(pl.Float32).repeat_by(prompt + completion),
        env_name=pl.lit(data_source),
        advantages=pl.concat_list(
            _repeat(0.0, prompt, pl.Float32), pl.col("advantage").cast(pl.Float32).repeat_by(completion)
        ),
        reward="reward",
        **{name: name for name in STORED_COLUMNS if name in rollouts.columns},
    )


def _all_columns(rollouts: pl.DataFrame, data_source: str) -> pl.DataFrame:
    return rollouts


def _repeat(value: float | bool, times: pl.Expr | str, kind: type[pl.DataType]) -> pl.Expr:
    return pl.lit(value, kind).repeat_by(times)


FORMATS: dict[str, ExportFormat] = {
    item.name: item
    for item in (
        ExportFormat(name="verl", source="verl 0.9.1", columns=_verl, prompts="messages", equal_groups=True),
        ExportFormat(
            name="trl", source="TRL 1.16.0", columns=_trl, prompts="one kind", needs_group=True, equal_groups=True
        ),
        ExportFormat(name="openrlhf", source="OpenRLHF 0.11.2", columns=_openrlhf, equal_groups=True),
        ExportFormat(name="prime-rl", source="prime-rl 0f59b24", columns=_prime_rl, needs_group=True, advantages=True),
        ExportFormat(name="parquet", source="the run itself", columns=_all_columns, for_training=False),
        ExportFormat(name="jsonl", source="the run itself", columns=_all_columns, suffix=".jsonl", for_training=False),
    )
}
