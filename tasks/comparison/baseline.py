"""Finds the baseline run of a comparison, or generates a sample of it for ``--baseline auto``.

A sample costs little beside the run, and every run with the same comparable settings uses it again.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from profiles.load import SettingsError, load_profile
from tasks.comparison.comparability import check_planned_settings, read_comparable_config, stated_count
from tasks.comparison.rollout_index import check_same_scorer, count_rollouts, scorers_of
from tasks.comparison.tost import minimum_questions
from tasks.comparison.verdict import DEFAULT_EPSILON
from tasks.errors import ConfigError
from tasks.generation.reference_run import reference_finished, reference_plan, run_reference
from tasks.locks import run_lock
from tasks.plan.fingerprint import STOPPING, dataset_digest
from tasks.plan.policies import AUTO_BASELINE
from tasks.plan.questions import shuffled
from tasks.plan.run_directory import find_run
from tasks.plan.run_plan import RunPlan, default_shard_size
from tasks.plan.sampling import STOPPING_FIELDS
from tasks.scoring.scorers import load_scorer
from tasks.storage.filesystems import TransferSettings
from tasks.storage.score_sets import find_set, set_folder
from tasks.user_paths import is_url

BASELINES = ".baselines"
"""Folder in the runs directory for downloaded and generated baselines."""


def check_baseline(name: str | None, plan: RunPlan) -> None:
    """Raise ConfigError when a run of ``plan`` cannot use the baseline ``name``.

    This is so when a local run does not exist or has other comparable settings, or when the profile names no baseline
    to sample. A URL is not checked here.
    """
    if name == AUTO_BASELINE:
        _sample_plan(plan)
    elif name is not None and not is_url(name):
        check_plan_matches(find_run(name, plan.paths.root.parent), plan)


def check_plan_matches(baseline: Path, plan: RunPlan) -> None:
    """Raise ConfigError when ``baseline`` has other comparable settings or another scorer than ``plan``, or when the
    verdict would be ``incomplete``: it lacks rollouts, or was made of more questions.

    The comparison checks the same. This function checks it before anything is generated.
    """
    check_planned_settings(baseline, plan.comparable, plan.run_id)
    _check_questions(baseline, plan)
    scorer = load_scorer(plan.config.scorer)
    of_baseline = scorers_of(baseline, find_set(baseline, set_folder(scorer.name, scorer.version)))
    check_same_scorer((baseline, of_baseline), (plan.paths.root, {f"{scorer.name} {scorer.version}"}))


def _check_questions(baseline: Path, plan: RunPlan) -> None:
    config = read_comparable_config(baseline)
    questions, rollouts = (stated_count(config, name) for name in ("num_questions", "num_rollouts"))
    if questions is not None and questions > plan.num_questions:
        raise ConfigError(
            f"the baseline {baseline} has {questions} questions, and the run {plan.run_id} would have "
            f"{plan.num_questions}: the others would be missing from the comparison. Ask for as many questions, or "
            "give a baseline of as many or fewer"
        )
    if rollouts is not None and (found := count_rollouts(baseline)) != rollouts:
        raise ConfigError(
            f"the baseline {baseline} has {found} rollouts, and its config.json states {rollouts}. Run the command "
            "that made it again, which resumes it, or give another baseline"
        )


def obtain_baseline(
    name: str, plan: RunPlan, say: Callable[[str], None] = lambda text: None, transfer: TransferSettings | None = None
) -> Path:
    """The local directory of the baseline for ``plan``: from ``find_baseline``, or a generated sample for "auto".

    Raises ConfigError, also when a run of ``plan`` cannot be compared with it, EngineError and UploadError.
    """
    if name == AUTO_BASELINE:
        return generate_baseline_sample(plan, say)
    baseline = find_baseline(name, plan.paths.root.parent, transfer)
    check_plan_matches(baseline, plan)
    return baseline


def find_baseline(name: str, runs_dir: Path, transfer: TransferSettings | None = None) -> Path:
    """The local directory of the run ``name``: an id, a directory, or a URL, which is downloaded and verified.

    Raises ConfigError and UploadError.
    """
    if not is_url(name):
        return find_run(name, runs_dir)
    from tasks.storage.download import download_run

    return download_run(name, runs_dir / BASELINES, transfer)


def generate_baseline_sample(plan: RunPlan, say: Callable[[str], None] = lambda text: None) -> Path:
    """The directory of the baseline sample for ``plan``; ``LLM.generate`` makes the sample if there is none yet.

    The sample has the ``minimum_questions`` that the statistical tier needs at DEFAULT_EPSILON, or all when there are
    fewer. Raises ConfigError when the profile names no baseline, and EngineError.
    """
    sample = _sample_plan(plan)
    with run_lock(sample.paths.logs / "lock"):
        if reference_finished(sample):
            say(f"comparing with the baseline sample {sample.paths.root}, generated before")
        else:
            say(
                f"generating a baseline sample with profile {sample.profile.name}: {sample.num_questions} of "
                f"{plan.num_questions} questions; it takes at least {minimum_questions(DEFAULT_EPSILON)} to show that "
                f"rewards differ by less than {DEFAULT_EPSILON:g}"
            )
            run_reference(sample, "baseline")
    return sample.paths.root


def _sample_plan(plan: RunPlan) -> RunPlan:
    if plan.profile.baseline is None:
        raise ConfigError(
            f"profile {plan.profile.name} names no baseline profile, so none can be generated. Give --baseline a run, "
            "a directory or a URL, or set baseline in the profile"
        )
    try:
        profile = load_profile(plan.profile.baseline)
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    # a loop takes a fixed number of samples: the first of each group are compared
    sampling = plan.config.sampling.model_copy(update=dict.fromkeys(STOPPING_FIELDS))
    questions = sample_questions(plan.questions, minimum_questions(DEFAULT_EPSILON), plan.config.sampling.seed)
    sample = replace(
        plan,
        profile=profile,
        # the baseline has the settings of its own profile
        config=plan.config.model_copy(update={"engine": None, "sampling": sampling}),
        questions=questions,
        shard_size=default_shard_size(questions.height, profile.question_batch_size, plan.rollouts_per_question),
        comparable={name: value for name, value in plan.comparable.items() if name != STOPPING}
        | {"dataset": dataset_digest(questions)},
    )
    return reference_plan(sample, "baseline", plan.paths.root.parent / BASELINES, name="auto")


def sample_questions(questions: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """``count`` rows in their order, chosen by a hash of seed and id; a larger sample contains every smaller one."""
    if questions.height <= count:
        return questions
    return shuffled(questions.with_row_index("position"), seed).head(count).sort("position").drop("position")
