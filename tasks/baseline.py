"""Finding the run that a candidate is compared with."""

from collections.abc import Callable
from pathlib import Path

from tasks.comparability import check_settings
from tasks.remote import Transfer
from tasks.run_directory import find_run
from tasks.run_index import check_scorers, scorers_of
from tasks.run_plan import RunPlan
from tasks.scoring import load_scorer

AUTO = "auto"
"""In place of a run: generate a sample of the baseline, once."""


def check_baseline(name: str | None, plan: RunPlan) -> None:
    """Raise ConfigError when ``name`` is a local baseline that does not exist or that a run of ``plan`` could not be
    compared with, or one that cannot be generated."""
    if name == AUTO:
        from tasks.baseline_sample import check_sample

        check_sample(plan)
    elif name is not None and "://" not in name:
        check_fits(find_run(name, plan.paths.root.parent), plan)


def check_fits(baseline: Path, plan: RunPlan) -> None:
    """Raise ConfigError when the run of ``plan`` could not be compared with ``baseline``, now rather than after it was
    generated: other settings, or another scorer."""
    check_settings(baseline, plan.comparable, plan.run_id)
    scorer = load_scorer(plan.config.scorer)
    check_scorers((baseline, scorers_of(baseline)), (plan.paths.root, {f"{scorer.name} {scorer.version}"}))


def obtain_baseline(
    name: str, plan: RunPlan, say: Callable[[str], None] = lambda text: None, transfer: Transfer | None = None
) -> Path:
    """The local directory of the baseline for ``plan``: ``find_baseline``'s, or for "auto" a generated sample.

    Raises ConfigError, also when the run could not be compared with it, EngineError or UploadError.
    """
    if name == AUTO:
        from tasks.baseline_sample import sample_baseline

        return sample_baseline(plan, say)
    baseline = find_baseline(name, plan.paths.root.parent, transfer)
    check_fits(baseline, plan)
    return baseline


def find_baseline(name: str, runs_dir: Path, transfer: Transfer | None = None) -> Path:
    """The local directory of a run: an id, a directory, or a URL that is downloaded and verified first.

    Raises ConfigError or UploadError.
    """
    if "://" not in name:
        return find_run(name, runs_dir)
    from tasks.download import download_run

    return download_run(name, runs_dir / ".baselines", transfer)
