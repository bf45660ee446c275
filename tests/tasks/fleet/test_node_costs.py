"""What a shard costs the pool of nodes does not grow with the number of shards: messages, and memory that is kept."""

import gc
import json
import sys
from collections import Counter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import until
from tests.support.scripted_nodes import Script, ScriptedCluster, ScriptedWorker
from tests.tasks.fleet.test_node_pool import Run

NODES = 2
_NOT_HELD = (FunctionType, ModuleType, type, ScriptedCluster, ScriptedWorker)


def held_by(root: object) -> int:
    """Bytes of all Python objects that can be reached from ``root``, without code and the cluster."""
    gc.collect()
    seen, found = {id(root)}, [root]
    for each in found:
        for other in gc.get_referents(each):
            if id(other) not in seen and not isinstance(other, _NOT_HELD):
                seen.add(id(other))
                found.append(other)
    return sum(map(sys.getsizeof, found))


def cost_of(folder: Path, shards: int) -> tuple[Counter[str], int]:
    """Return the calls of the nodes, and the bytes that the pool holds once all of so many shards are made."""
    folder.mkdir()
    dataset = folder / "questions.jsonl"
    dataset.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"{n}"}) + "\n" for n in range(shards)))
    given: dict[str, Any] = {"dataset": {"path": str(dataset)}, "shard_size": 1}
    plan = plan_run(RunConfig(profile=str(write_fake_profile(folder)), **given), folder / "runs")
    cluster = ScriptedCluster(**{f"node-{number}": Script() for number in range(NODES)})
    run = Run(plan, cluster, NODES)
    with run.pool, run._threads:
        run.begin()
        run.pump_until_done()
        until(lambda: run.pump() or run.pool.rollouts_finished == plan.num_rollouts, "all shards are counted")
        run.said.clear()
        calls = Counter(method for worker in cluster.workers.queue for method in worker.called)
        return calls, held_by(run.pool)


def test_a_shard_takes_the_same_messages_and_leaves_next_to_nothing_however_many_there_are(tmp_path: Path) -> None:
    few, many = 20, 100
    (calls_of_few, held_with_few), (calls, held) = cost_of(tmp_path / "few", few), cost_of(tmp_path / "many", many)
    for number, made in ((few, calls_of_few), (many, calls)):
        del made["report"]  # as often as the clock says
        assert made["give"] <= number
        once = Counter(identity=NODES, begin=NODES, facts=NODES)
        assert made == once + Counter(give=number, read=number, drop=number)
    # who made it: a run's id, which all share, and a number
    assert (held - held_with_few) / (many - few) < 256
