"""The benchmark as a flow, so that a schedule can measure a node every week."""

from dataclasses import replace
from typing import Annotated, Any

from prefect import State, flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows.bench import Bench
from flows.bench_contestants import choose_contestants
from flows.bench_settings import DEFAULT_QUESTIONS, DEFAULT_REPEATS, MOST_REPEATS
from flows.parameters import PARAMETERS, takes
from flows.reporting.flow_failures import explain_failures
from flows.reporting.reporter import Reporter
from flows.reporting.resolved_parameters import resolve_parameters
from profiles.settings import Settings
from tasks.plan.parameters import parameters_of
from tasks.plan.run_config import DEFAULT_TOP_LOGPROBS


def _name() -> str:
    return "bench · " + str(runtime.flow_run.parameters.get("profile", PARAMETERS["profile"].default))


class BenchParameters(Settings):
    """The parameters that only the benchmark has."""

    repeats: int = Field(DEFAULT_REPEATS, title="Measurements of each", ge=1, le=MOST_REPEATS)
    """How often each contestant is measured."""
    peers: bool = Field(False, title="Peers as well")
    """Measure what others use in the pipeline's place too, where it is installed: vllm serve, datatrove, Ray Data."""


_PARAMETERS = (
    *(PARAMETERS[name] for name in ("profile", "model", "dataset")),
    replace(PARAMETERS["questions"], type=Annotated[int, Field(ge=1)], default=DEFAULT_QUESTIONS),
    *parameters_of(BenchParameters),
    *(PARAMETERS[name] for name in ("max_tokens", "seed", "runs_dir")),
)


@flow(name="bench", flow_run_name=_name, persist_result=False, validate_parameters=True)
@takes(_PARAMETERS)
def bench(repeats: int, peers: bool, **given: Any) -> "State[dict[str, Any]]":
    """Measure the pipeline beside the loops that it replaces and vLLM's own limit, on this node."""
    log = get_run_logger()
    with explain_failures(), Reporter() as reporter:
        parameters = {
            "top_logprobs": DEFAULT_TOP_LOGPROBS,
            **resolve_parameters({name: value for name, value in given.items() if value is not None}),
        }
        benchmark = Bench(parameters, baseline_profile=None, log=log.info)
        contestants, absent = choose_contestants(None, peers=peers)
        if absent:
            log.info(absent)
        result = benchmark.run(contestants, repeats).to_json()
        title = f"Benchmark of {given['profile']} in {benchmark.directory}"
        reporter.table("harvest-bench", result["standings"], title)
    return Completed(message=f"Measured {len(result['measurements'])} times: {benchmark.directory}", data=result)
