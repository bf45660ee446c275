"""TRL's own GRPO trainer takes an export, with the code of the export's README."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.export.advantages import group_advantages
from tasks.export.export_run import export_run
from tasks.export.filters import ExportFilters
from tasks.storage.run_files import known_waves
from tests.support.card_code import run_card_code
from tests.support.stopped_rollouts import write_stopped_run
from tests.support.synthetic import publish_shard, write_run

SAMPLES = 4
GROUPS = 8
GROUPS_PER_STEP = 2


@pytest.fixture(autouse=True, scope="module")
def without_vllm() -> Iterator[None]:
    """TRL imports vLLM, which generates nothing here and takes seconds, unless there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)
        yield


@pytest.mark.slow
def test_sft_trains_on_the_best_rollouts_with_the_ids_that_were_sampled(tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    run = write_stopped_run(tmp_path / "run", "correct:1", shards=1, questions_per_shard=GROUPS, arms=1, min_tokens=3)
    for index in known_waves(run.root, "rollouts"):
        ids = pl.col("prompt_ids", "completion_ids").list.eval(pl.element() % len(tokenizer))
        publish_shard(pl.read_parquet(run.rollouts(index)).with_columns(ids), run.rollouts(index))
    manifest = export_run(run.root, "trl", str(tmp_path / "out"), ExportFilters(best=1))
    examples = run_card_code(tmp_path / "out")["examples"]
    assert manifest.groups == len(examples) > 1

    trainer = SFTTrainer(
        model=_small_model(len(tokenizer)),
        processing_class=tokenizer,
        train_dataset=examples,
        args=SFTConfig(
            output_dir=str(tmp_path / "trained"),
            completion_only_loss=True,
            per_device_train_batch_size=len(examples),
            num_train_epochs=1,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
        ),
    )
    (batch,) = trainer.get_train_dataloader()
    # labels are the completion alone; -100 is no token
    found = {tuple(row[row >= 0].tolist()) for row in batch["labels"]}
    assert found == {tuple(ids) for ids in pl.read_parquet(tmp_path / "out" / "*.parquet")["completion_ids"].to_list()}
    assert trainer.train().training_loss > 0

    # the same run gives groups of one size, with both outcomes, for GRPO
    manifest = export_run(run.root, "trl", str(tmp_path / "grpo"), ExportFilters(group_size=2, balance=True))
    card = run_card_code(tmp_path / "grpo")
    accelerator = SimpleNamespace(accelerator=SimpleNamespace(process_index=0))
    asked = [group_id for group_id in card["group_ids"] for _ in range(card["NUM_GENERATIONS"])]
    rewards = card["stored_rollouts"](asked, accelerator)["reward"]
    assert manifest.groups == len(card["group_ids"]) > 1
    assert [sorted(rewards[at : at + 2]) for at in range(0, len(rewards), 2)] == [[0.0, 1.0]] * manifest.groups


def _small_model(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )


@pytest.mark.slow
def test_grpo_trains_on_every_stored_rollout_once_in_an_epoch(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    run = write_run(tmp_path / "run", shards=1, questions_per_shard=GROUPS, arms=1, samples=SAMPLES, min_tokens=3)
    within = pl.element() % len(tokenizer)
    # the data set asks each of four questions twice
    prompt = pl.col("prompt").gather((pl.int_range(pl.len()) // (2 * SAMPLES)) * 2 * SAMPLES)
    rollouts = pl.read_parquet(run.rollouts(0)).with_columns(
        pl.col("prompt_ids", "completion_ids").list.eval(within), prompt=prompt
    )
    assert rollouts["prompt"].n_unique() == GROUPS / 2
    publish_shard(rollouts, run.rollouts(0))
    export_run(run.root, "trl", str(tmp_path / "out"))
    card = run_card_code(tmp_path / "out")

    batches: list[dict[str, Any]] = []

    class Recording(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            batches.append(batch)
            return batch

    model = _small_model(len(tokenizer))
    before = model.lm_head.weight.detach().clone()
    trainer = Recording(
        model=model,
        processing_class=tokenizer,
        reward_funcs=card["stored_reward"],
        rollout_func=card["stored_rollouts"],
        train_dataset=card["prompts"],
        args=GRPOConfig(
            output_dir=str(tmp_path / "trained"),
            num_generations=card["NUM_GENERATIONS"],
            per_device_train_batch_size=GROUPS_PER_STEP * SAMPLES,
            num_train_epochs=1,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
        ),
    )
    trainer.train()

    def tokens(batch: dict[str, Any], name: str, position: int) -> tuple[int, ...]:
        return tuple(batch[f"{name}_ids"][position][batch[f"{name}_mask"][position].bool()].tolist())

    trained = {
        (tokens(batch, "prompt", position), tokens(batch, "completion", position)): advantage
        for batch in batches
        for position, advantage in enumerate(batch["advantages"].tolist())
    }
    expected = group_advantages(rollouts.join(pl.read_parquet(run.scores(0)), on="rollout_id", maintain_order="left"))
    assert sum(len(batch["advantages"]) for batch in batches) == len(trained) == GROUPS * SAMPLES
    for rollout in expected.iter_rows(named=True):
        ids = (tuple(rollout["prompt_ids"]), tuple(rollout["completion_ids"]))
        assert trained[ids] == pytest.approx(rollout["advantage"], abs=1e-5)
    assert not torch.equal(model.lm_head.weight, before)

    # two processes get the halves of a batch, and a group may lie in both
    asked = [group_id for group_id in card["group_ids"] for _ in range(SAMPLES)]
    halves = [asked[: SAMPLES + 2], asked[SAMPLES + 2 : 2 * SAMPLES + 4]]
    answers = [
        card["stored_rollouts"](half, SimpleNamespace(accelerator=SimpleNamespace(process_index=index)))
        for index, half in enumerate(halves)
    ]
    together = [ids for answer in answers for ids in answer["completion_ids"]]
    assert together == rollouts["completion_ids"].to_list()[: len(together)]
