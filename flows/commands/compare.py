"""``harvest compare``: say whether the outputs of two runs are the same, and in which sense."""

from typing import Any

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.commands.parameter_options import parameter_options
from flows.parameters import flow_parameters


@command(examples=("harvest compare BASELINE latest --require numerical",))
@parameter_options(("require", "epsilon"))
@reads_runs("baseline", "candidate", scores=True)
def compare(runs: Runs, baseline: str, candidate: str, scores: str | None, json: bool, **given: Any) -> int:
    """Compare two runs rollout by rollout: bitwise, numerically, statistically. Exit code 3 when the verdict is below
    --require, 2 when the runs cannot be compared.
    """
    from flows.console import print_result
    from tasks.comparison.equivalence import compare_runs
    from tasks.comparison.equivalence_view import render_equivalence
    from tasks.comparison.noise_floor import find_noise_floor
    from tasks.storage.score_sets import find_scores

    asked = flow_parameters(given)
    first, second = runs.find(baseline), runs.find(candidate)
    floor = find_noise_floor(second, runs.directory, second.parent)
    report = compare_runs(
        first,
        second,
        epsilon=asked.epsilon,
        noise_floor=floor,
        require=asked.require,
        scores=(find_scores(first, scores), find_scores(second, scores)),
    )
    print_result(report.to_json(), lambda: render_equivalence(report), json=json)
    report.raise_if_below(asked.require)
    return 0
