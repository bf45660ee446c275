"""Makes report.html: a finished run on one page that needs no network and no other file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.comparison.mismatch_report import distributions
from tasks.files import publish_text
from tasks.plain_text import one_line, visible
from tasks.plan.run_directory import reproduce_command
from tasks.plan.sampling import STORED_FIELDS, run_sampling
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.arm_contrasts import significant_contrasts
from tasks.results.metrics import ArmMetrics
from tasks.results.page_cards import cards_of
from tasks.results.page_data import LISTED_DIVERGENCES, PageData, read_page_data
from tasks.results.page_lengths import ArmLengths
from tasks.results.page_plots import (
    ArmPoint,
    arm_length_plot,
    length_plot,
    pass_rate_plot,
    reward_plot,
    startup_plot,
    timeline_plots,
)
from tasks.results.page_samples import KINDS
from tasks.results.page_template import Links, page_template
from tasks.results.run_state import RunState
from tasks.results.stopping_report import ArmPassRates
from tasks.storage.published import recorded_path

_LISTED_CONTRASTS = 10
_LISTED_EXAMPLES = 6


def publish_page(run_dir: Path, scores: str = OWN_SCORES) -> Path:
    """Make and publish ``report.html`` of the finished run at ``run_dir``, and return its path. Raises ConfigError.

    ``scores`` is the folder of the scores. The page of another set than the run's own is in there.
    """
    path = RunPaths(root=run_dir, scores_folder=scores).report_html
    publish_text(render_page(read_page_data(run_dir, scores)), path, recorded_path)
    return path


def render_page(data: PageData, *, links: Links = (), state: RunState | None = None) -> str:
    """Return the page as text, for a file, or with ``links`` to other pages of ``harvest view`` and the run's state."""
    report = data.report
    contrasts = significant_contrasts(report.contrasts)
    arms = ranked(report.arms)
    page = page_template("report.html.jinja", served=bool(links)).render(
        data=data,
        report=report,
        links=links,
        state=state,
        cards=cards_of(report),
        arms=arms,
        kinds=KINDS,
        reward_plot=reward_plot(arm_points(arms)),
        arm_length_plot=arm_length_plot([_lengths(data, arm) for arm in arms]),
        pass_rate_plot=pass_rate_plot(_in_order(report.pass_rates, arms)) if report.pass_rates else None,
        length_plot=length_plot(data.lengths),
        startup_plot=startup_plot(data.timeline) if data.timeline and data.timeline.startups else None,
        timeline_plots=timeline_plots(data.timeline) if data.timeline else (),
        contrasts=contrasts[:_LISTED_CONTRASTS],
        more_contrasts=max(0, len(contrasts) - _LISTED_CONTRASTS),
        compared=len(report.contrasts),
        divergences=data.equivalence.tokens.worst[:LISTED_DIVERGENCES] if data.equivalence else (),
        ratios=distributions(data.mismatch) if data.mismatch else {},
        examples=data.equivalence.examples[:_LISTED_EXAMPLES] if data.equivalence else (),
        command=_command(data.config),
        settings=settings_of(data.config),
    )
    return visible(page)


def ranked(arms: Sequence[ArmMetrics]) -> list[ArmMetrics]:
    """Return the arms in the order of the plots and tables: the highest mean reward first, those without one last."""
    return sorted(arms, key=lambda arm: (arm.mean_reward is None, -(arm.mean_reward or 0.0)))


def arm_points(arms: Sequence[ArmMetrics]) -> list[ArmPoint]:
    """Return the points of ``reward_plot``, in the order of ``arms``."""
    return [
        ArmPoint(name=str(arm.arm_id), mean=arm.mean_reward, interval=arm.mean_reward_interval)
        for arm in arms
        if arm.mean_reward is not None
    ]


def _in_order(pass_rates: Sequence[ArmPassRates], arms: Sequence[ArmMetrics]) -> list[ArmPassRates]:
    place = {str(arm.arm_id): number for number, arm in enumerate(arms)}
    return sorted(pass_rates, key=lambda each: place.get(each.arm_id, len(place)))


def _lengths(data: PageData, arm: ArmMetrics) -> ArmLengths:
    name = str(arm.arm_id)
    return data.arm_lengths.get(name, ArmLengths(arm_id=name, right=None, wrong=None))


def _command(config: dict[str, Any]) -> str | None:
    try:
        return reproduce_command(config["config"])
    except (KeyError, TypeError, AttributeError):
        return None


def settings_of(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that decide the outputs, flat, by name."""
    flat: list[tuple[str, str]] = []
    for part in ("comparable", "tested"):
        for name, value in config.get(part, {}).items():
            items = value.items() if isinstance(value, dict) else [("", value)]
            flat += [(f"{name} {key}".strip(), one_line(str(item), 200)) for key, item in items]
    flat += [
        (f"{name} of the model", one_line(str(value), 120)) for name, value in config.get("model_sampling", {}).items()
    ]
    return flat + [(name, "stored") for name in STORED_FIELDS if run_sampling(config).get(name)]
