"""The benchmark as a flow, so that a schedule can measure a node every week."""

from typing import Annotated, Any

from prefect import State, flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows import parameters as form
from flows.bench import CONTESTANTS, Bench
from flows.reporting.flow_failures import explain_failures
from flows.reporting.reporter import Reporter
from flows.reporting.resolved_parameters import resolve_parameters
from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS


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
    """Measure the pipeline and the loops that it replaces, on this node."""
    given = {name: value for name, value in locals().items() if name != "repeats" and value is not None}
    log = get_run_logger()
    with explain_failures(), Reporter() as reporter:
        parameters = {"top_logprobs": DEFAULT_TOP_LOGPROBS, **resolve_parameters(given)}
        benchmark = Bench(parameters, baseline_profile=None, log=log.info)
        result = benchmark.run(CONTESTANTS, repeats).to_json()
        reporter.table("harvest-bench", result["standings"], f"Benchmark of {profile} in {benchmark.directory}")
    return Completed(message=f"Measured {len(result['measurements'])} times: {benchmark.directory}", data=result)
