"""Parts of a replica without a model: generation settings, shards of questions, a tokenizer of bytes."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from profiles.arm_schema import Arm
from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.policy import Policy
from tasks.plan.prompts import Message
from tasks.plan.sampling import Sampling
from tasks.records import QUESTION_SCHEMA
from tests.support.fake_engines import FakeEngine

ARMS = tuple(Arm(id=name, system_prompt=f"Answer {name}.") for name in ("plain", "short", "steps"))
POLICY = Policy(run_id="run", model="model", model_revision="1", weights=Path("unused"), weights_digest="1")
ENGINE_SPEC = EngineSpec(model_path=Path("unused"), settings=EngineSettings())


class ByteTokenizer:
    """One token per byte; stands for the model's tokenizer, whose loading takes seconds."""

    def encode(self, messages: list[Message], template_kwargs: object = None) -> list[int]:
        return list("".join(message["content"] for message in messages).encode())

    def encode_all(self, prompts: Sequence[list[Message]], template_kwargs: object = None) -> list[list[int]]:
        return [self.encode(messages) for messages in prompts]

    def decode(self, completion_ids: list[int], stop: Sequence[str] = ()) -> str:
        return bytes(completion_ids).decode("latin-1")


def make_spec(
    *,
    batch: int = 4,
    first: int | None = None,
    max_tokens: int = 16,
    max_model_len: int = 128,
    samples: int = 1,
    batch_barrier: bool = False,
) -> GenerationSpec:
    return GenerationSpec(
        arms=ARMS,
        sampling=Sampling(max_tokens=max_tokens, samples_per_arm=samples),
        max_model_len=max_model_len,
        question_batch_size=batch,
        first_questions=first,
        max_num_seqs=64,
        oom_rung=0,
        batch_barrier=batch_barrier,
    )


def make_shard(folder: Path, index: int, questions: list[str], policy: Policy = POLICY) -> ShardWork:
    """Write a shard with these questions; their ids are q0, q1, ... of the shard."""
    work = ShardWork(
        policy=policy,
        index=index,
        questions=folder / f"questions-{index}.parquet",
        journal=folder / "journal" / f"{index}.jsonl",
        rollouts=folder / f"rollouts-{index}.parquet",
    )
    rows = [(f"s{index}-q{number}", question, "1") for number, question in enumerate(questions)]
    pl.DataFrame(rows, schema=QUESTION_SCHEMA, orient="row").write_parquet(work.questions)
    return work


def make_engine() -> FakeEngine:
    return FakeEngine(ENGINE_SPEC)
