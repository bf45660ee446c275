"""Makes report.html: a finished run on one page that needs no network, no script and no other file.

Text of models, datasets and configurations is escaped where it enters the page, and the page's content policy forbids
scripts and requests: nothing that a model wrote can run. Control characters are made visible on the whole page.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tasks.comparison.mismatch_report import distributions
from tasks.files import publish_text
from tasks.plain_text import clock, one_line, shortened, visible
from tasks.plan.run_directory import reproduce_command
from tasks.plan.sampling import STORED_FIELDS, run_sampling
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.arm_contrasts import significant_contrasts
from tasks.results.metrics import ArmMetrics
from tasks.results.page_data import LISTED_DIVERGENCES, PageData, read_page_data
from tasks.results.page_plots import ArmPoint, length_plot, reward_plot, timeline_plot
from tasks.storage.published import recorded_path

_LISTED_CONTRASTS = 10
_LISTED_EXAMPLES = 6
_EXAMPLE_CHARACTERS = 800


def publish_page(run_dir: Path, scores: str = OWN_SCORES) -> Path:
    """Make and publish ``report.html`` of the finished run at ``run_dir``, and return its path. Raises ConfigError.

    ``scores`` is the folder of the scores. The page of another set than the run's own is in there.
    """
    path = RunPaths(root=run_dir, scores_folder=scores).report_html
    publish_text(render_page(read_page_data(run_dir, scores)), path, recorded_path)
    return path


def page_template(name: str) -> Template:
    """Return one of the templates, which escape every text that enters them."""
    environment = Environment(
        loader=PackageLoader("tasks.results", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, nats=_nats, percent=_percent, line=_line, shown=_shown, seconds=_seconds, points=_points
    )
    return environment.get_template(name)


def render_page(data: PageData) -> str:
    """Return the page as text."""
    report = data.report
    contrasts = significant_contrasts(report.contrasts)
    page = page_template("report.html.jinja").render(
        data=data,
        report=report,
        reward_plot=reward_plot(_ranked(report.arms)),
        length_plot=length_plot(data.lengths),
        timeline_plot=None if data.timeline is None else timeline_plot(data.timeline),
        contrasts=contrasts[:_LISTED_CONTRASTS],
        more_contrasts=max(0, len(contrasts) - _LISTED_CONTRASTS),
        compared=len(report.contrasts),
        divergences=data.equivalence.tokens.worst[:LISTED_DIVERGENCES] if data.equivalence else (),
        ratios=distributions(data.mismatch) if data.mismatch else {},
        examples=data.equivalence.examples[:_LISTED_EXAMPLES] if data.equivalence else (),
        command=_command(data.config),
        settings=_settings(data.config),
    )
    return visible(page)


def _ranked(arms: Sequence[ArmMetrics]) -> list[ArmPoint]:
    points = [
        ArmPoint(name=str(arm.arm_id), mean=arm.mean_reward, interval=arm.mean_reward_interval)
        for arm in arms
        if arm.mean_reward is not None
    ]
    return sorted(points, key=lambda point: -point.mean)


def _command(config: dict[str, Any]) -> str | None:
    try:
        return reproduce_command(config["config"])
    except (KeyError, TypeError, AttributeError):
        return None


def _settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that decide the outputs, flat, by name."""
    flat: list[tuple[str, str]] = []
    for part in ("comparable", "tested"):
        for name, value in config.get(part, {}).items():
            items = value.items() if isinstance(value, dict) else [("", value)]
            flat += [(f"{name} {key}".strip(), _line(item, 200)) for key, item in items]
    flat += [(f"{name} of the model", _line(value)) for name, value in config.get("model_sampling", {}).items()]
    return flat + [(name, "stored") for name in STORED_FIELDS if run_sampling(config).get(name)]


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    return f"{clock(value)} {'h' if round(value) >= 3600 else 'min'}"


def _line(value: object, most: int = 120) -> str:
    return one_line(str(value), most)


def _shown(value: object, most: int = _EXAMPLE_CHARACTERS) -> str:
    return visible(shortened("" if value is None else str(value), most))
