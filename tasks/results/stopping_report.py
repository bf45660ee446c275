"""What a report says of pass rates, and of what a stopping rule saved."""

from dataclasses import dataclass

import polars as pl

from tasks.results.pass_rate import WavePlan
from tasks.results.sampling_metrics import GROUP

TENTHS = 10
"""Bins between the groups without a right rollout and those without a wrong one."""


@dataclass(frozen=True, kw_only=True)
class ArmPassRates:
    """How many groups of an arm have which share of right rollouts, of those with a reward."""

    arm_id: str
    never: int
    """Groups without a right rollout."""
    tenths: tuple[int, ...]
    """Groups with right and wrong ones, by the share of right ones: up to 0.1, up to 0.2, and so on."""
    always: int
    """Groups without a wrong rollout."""

    @property
    def bins(self) -> tuple[int, ...]:
        return (self.never, *self.tenths, self.always)


@dataclass(frozen=True, kw_only=True)
class StoppedBy:
    """The groups that one condition stopped."""

    reason: str
    """A condition of the rule, or "max"."""
    groups: int
    share: float
    """Of all groups."""


@dataclass(frozen=True, kw_only=True)
class StoppingReport:
    """What became of a stopping rule."""

    rule: str
    samples: int
    """Rollouts of the run."""
    most_samples: int
    """Rollouts that it would have had, had no group stopped before the maximum."""
    tokens: int
    """Completion tokens of the run."""
    most_tokens: float
    """Those that it would have had: of each group its mean length, by the weights of its rollouts, for each sample; not
    fewer than ``tokens``."""
    saved_gpu_seconds: float | None
    """GPU time that these tokens would have taken, at the run's own speed while sequences ran; None without GPU
    telemetry."""
    stopped_by: tuple[StoppedBy, ...]
    """The most frequent first. Empty where the scores are not those by which groups stopped."""

    @property
    def saved_share(self) -> float:
        """Share of the tokens that were not generated."""
        return 1 - self.tokens / self.most_tokens if self.most_tokens else 0.0


def arm_pass_rates(groups: pl.DataFrame) -> tuple[ArmPassRates, ...]:
    """Return the counts of each arm of ``groups`` (DIFFICULTY_SCHEMA); empty where no group has two rollouts."""
    scored = groups.filter(pl.col("n") > 0)
    if scored.is_empty() or scored["n"].max() == 1:
        return ()
    right, n = pl.col("right"), pl.col("n")
    # the number of a bin is exact in whole numbers
    place = pl.when(right == 0).then(0).when(right == n).then(TENTHS + 1).otherwise(-(-TENTHS * right // n))
    table = scored.group_by("arm_id", bin=place).len()
    counts = {(arm, place): count for arm, place, count in table.iter_rows()}
    return tuple(
        ArmPassRates(
            arm_id=arm,
            never=counts.get((arm, 0), 0),
            tenths=tuple(counts.get((arm, place), 0) for place in range(1, TENTHS + 1)),
            always=counts.get((arm, TENTHS + 1), 0),
        )
        for arm in sorted(scored["arm_id"].unique())
    )


def undecided_warning(groups: pl.DataFrame, plan: WavePlan) -> str | None:
    """Return what follows where the scores of ``groups`` (DIFFICULTY_SCHEMA) are not those by which groups stopped."""
    if plan.rule is None or not groups["stopped_by"].null_count():
        return None
    return (
        "these are not the rewards by which sampling stopped: another scorer gave those, or the scorer gives others "
        f"now. The rollouts stay as they are; means and pass rates are of the first {plan.ends[0]:,} samples of a group"
    )


def stopping_report(
    rows: pl.DataFrame, groups: pl.DataFrame, plan: WavePlan, gpu_seconds_per_token: float | None
) -> StoppingReport | None:
    """Return what the rule of ``plan`` did, from weighed ``rows`` and their groups; None without a rule."""
    if plan.rule is None:
        return None
    tokens, weight = pl.col("num_completion_tokens").fill_null(0), pl.col("weight")
    means = rows.group_by(GROUP).agg(mean=(tokens * weight).sum() / weight.sum())["mean"]
    made = int(rows.select(tokens.sum()).item())
    # of few groups the estimate can be below what there is
    most = max(float(made), float(means.sum()) * plan.ends[-1])
    counts = groups["stopped_by"].drop_nulls().value_counts(name="groups").sort("groups", "stopped_by", descending=True)
    return StoppingReport(
        rule=str(plan.rule),
        samples=rows.height,
        most_samples=groups.height * plan.ends[-1],
        tokens=made,
        most_tokens=round(most, 1),
        saved_gpu_seconds=None if gpu_seconds_per_token is None else round(gpu_seconds_per_token * (most - made), 1),
        stopped_by=tuple(
            StoppedBy(reason=reason, groups=count, share=count / groups.height) for reason, count in counts.iter_rows()
        ),
    )
