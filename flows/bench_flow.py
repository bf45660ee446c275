"""The benchmark as a flow, so that it can be scheduled: the figures of a node, week by week."""

from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows import parameters as form
from flows.bench import CONTESTANTS, Bench
from flows.reporting.ending import failures_explained
from flows.reporting.reporter import Reporter
from flows.reporting.run_identity import settle_parameters
from tasks.node.gpu_lock import gpus_of, node_lock
from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS, config_from_parameters
from tasks.plan.run_plan import plan_run


def _name() -> str:
    return f"bench · {runtime.flow_run.parameters.get('profile', form.DEFAULT_PROFILE)}"


@flow(name="bench", flow_run_name=_name, persist_result=False, validate_parameters=True)
def bench(
    profile: form.Profile = form.DEFAULT_PROFILE,
    model: form.Model = None,
    dataset: form.Dataset = "demo",
    questions: Annotated[int, Field(ge=1, json_schema_extra={"title": "Questions"})] = 100,
    repeats: Annotated[int, Field(ge=1, json_schema_extra={"title": "Measurements of each"})] = 3,
    max_tokens: form.MaxTokens = 512,
    seed: form.Seed = 0,
    runs_dir: form.RunsDir = "runs",
) -> "State[dict[str, Any]]":
    """Measure the pipeline beside the loops that it replaces, on this node."""
    given = {name: value for name, value in locals().items() if name != "repeats" and value is not None}
    log = get_run_logger()
    with failures_explained(), Reporter() as reporter:
        settled = {"top_logprobs": DEFAULT_TOP_LOGPROBS, **settle_parameters(given)}
        plan = plan_run(config_from_parameters(settled), Path(runs_dir))
        measured = Bench(settled, baseline_profile=None, say=log.info)
        with node_lock(gpus_of(plan), run_id=measured.directory.name, waiting=log.info):
            result = measured.run(CONTESTANTS, repeats).to_json()
        reporter.table("harvest-bench", result["standings"], f"Benchmark of {profile} in {measured.directory}")
    return Completed(message=f"Measured {len(result['measurements'])} times: {measured.directory}", data=result)
