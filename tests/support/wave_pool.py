"""A pool without engines, which generates the waves of shards in the test's process, and what a rule asks of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from flows.shards.shard_waves import ShardWaves
from tasks.errors import PoolClosed
from tasks.generation.engine import EngineOutput
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.journal import JournalWriter
from tasks.generation.oom_ladder import Rung
from tasks.generation.policy import policies_of
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.rollout_writer import FinishedRollout, RolloutWriter
from tasks.generation.shard_feed import ShardFeed
from tasks.generation.shard_queue import ShardResult
from tasks.plan.prompts import request_seed
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, record_rollouts, shard_dataset
from tasks.plan.stopping_rule import StoppingRule, wave_ends
from tasks.plan.waves import find_remaining, finish_scores
from tests.support.fake_profile import write_fake_profile

Group = tuple[str, str]
QUESTIONS = 5
ERROR, NEVER, ALWAYS = "q0", "q1", "q2"
"""Questions all of whose rollouts are error rows, wrong, and right; of the others about one in four is right."""


class WavePool:
    """Generates one-token completions; ``asked`` has each rollout that it generated, in order.

    With ``stop_after`` so many waves it is closed, and with ``tear`` it has then half of the next wave in its journal.
    """

    def __init__(self, *, stop_after: int | None = None, tear: bool = False) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.waves: list[int] = []
        self._stop_after, self._tear = stop_after, tear

    def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
        (policy,) = policies_of([plan])
        batch = int(plan.profile.question_batch_size)
        spec = GenerationSpec.of(plan, Rung(index=0, question_batch_size=batch, engine=plan.profile.engine))
        work = ShardWork.of(policy, plan.paths, shard.index)
        is_over = len(self.waves) == self._stop_after
        if is_over and not self._tear:
            raise PoolClosed("the test ends here")
        feed = ShardFeed(work, spec)
        keys = [(item.example_id, arm.id, sample) for item in feed.pending for arm, sample in item.rollouts]
        writer = RolloutWriter(JournalWriter(work.journal, repair=False), spec, self)
        for key in keys[: len(keys) // 2] if is_over else keys:
            self.asked.append(key)
            writer.write([_finished(plan, *key)])
        writer.close()
        feed.journal.close()
        if is_over:
            raise PoolClosed("the test ends here")
        self.waves.append(shard.index)
        errors = publish_rollouts(work, spec, EngineFacts(version="test", dtype="float32"))
        record_rollouts(plan.paths, shard.index)
        work.journal.unlink()
        return ShardResult(
            index=shard.index, num_rollouts=shard.num_rollouts, num_errors=errors, num_resumed=feed.num_resumed
        )

    def decode(self, completion_ids: list[int], stop: object = ()) -> str:
        return f"#### {completion_ids[0]}"


def is_right(run_seed: int, example_id: str, arm_id: str, sample: int) -> bool | None:
    """Whether the pool answers right; None for an error row."""
    if example_id == ERROR:
        return None
    if example_id in (NEVER, ALWAYS):
        return example_id == ALWAYS
    return request_seed(run_seed, example_id, arm_id, sample) % 4 == 0


def _finished(plan: RunPlan, example_id: str, arm_id: str, sample: int) -> FinishedRollout:
    right = is_right(plan.config.sampling.seed, example_id, arm_id, sample)
    if right is None:
        return FinishedRollout(example_id=example_id, arm_id=arm_id, sample_index=sample, error="it is refused")
    output = EngineOutput(request_id="", completion_ids=[7 if right else 8], logprobs=[-0.5], finish_reason="stop")
    return FinishedRollout(example_id=example_id, arm_id=arm_id, sample_index=sample, prompt_ids=[1], output=output)


def wave_plan(folder: Path, **changes: Any) -> RunPlan:
    """A run of QUESTIONS questions under two arms, two questions in a shard; ``changes`` are parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "questions.jsonl"
    rows = [{"id": f"q{number}", "question": f"What is {number}?", "answer": "7"} for number in range(QUESTIONS)]
    dataset.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    arms = folder / "arms.toml"
    arms.write_text("".join(f'[[arms]]\nid = "{name}"\nsystem_prompt = "{name}"\n' for name in ("first", "second")))
    given = {
        "arms": str(arms),
        "profile": str(write_fake_profile(folder)),
        "dataset": str(dataset),
        "id_column": "id",
        "shard_size": 2,
    }
    return plan_run(config_from_parameters({**given, "max_tokens": 8, **changes}), folder / "runs")


def collect(plan: RunPlan, pool: WavePool) -> ShardWaves:
    """Generate and score what is left of the run, shard by shard."""
    open_run(plan)
    shards = shard_dataset(plan)
    waves = ShardWaves(pool, plan.num_rollouts)  # type: ignore[arg-type]  # it has what is used of a pool
    left = find_remaining(plan, shards)
    for shard in left.generated:
        waves.settled(shards[shard.index].num_rollouts, shard.num_rollouts)
    for shard in left.to_score:
        [*finish_scores(plan, shard)]
    for shard in left.to_generate:
        waves.generate(plan, shard, log=lambda text: None)
    return waves


def rows_of(plan: RunPlan) -> dict[tuple[str, str, int], tuple[str | None, float | None]]:
    """Completion and reward of each rollout of the run, by its key."""
    found = {}
    for rollouts in sorted((plan.paths.root / "rollouts").glob("*.parquet")):
        scores = pl.read_parquet(plan.paths.root / "scores" / rollouts.name)
        frame = pl.read_parquet(rollouts).join(scores, on="rollout_id", validate="1:1")
        for row in frame.iter_rows(named=True):
            key = (row["example_id"], row["arm_id"], row["sample_index"])
            assert key not in found
            found[key] = row["completion"], row["reward"]
    return found


def expected_samples(plan: RunPlan) -> Mapping[Group, int]:
    """How many samples each group must have: the rule, applied to one group after the other without any waves."""
    sampling = plan.config.sampling
    rule = StoppingRule.parse(sampling.sample_until or "")
    ends = wave_ends(sampling.samples_per_arm, sampling.wave_size or sampling.samples_per_arm, sampling.most_samples)
    found = {}
    for example_id in plan.questions["example_id"]:
        for arm in plan.arms.arms:
            for end in ends:
                answers = [is_right(sampling.seed, example_id, arm.id, sample) for sample in range(end)]
                found[example_id, arm.id] = end
                if rule.holds(answers.count(True), answers.count(False)):
                    break
    return found
