"""The pages of ``harvest view``: an address to a page of text. They are made from the runs' files at every request."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from tasks.errors import ConfigError
from tasks.files import file_identity
from tasks.plain_text import visible
from tasks.results.page_data import read_page_data
from tasks.results.page_plots import ArmPoint, reward_plot, timeline_plots
from tasks.results.page_samples import KINDS
from tasks.results.page_template import Links, page_template
from tasks.results.report_page import render_page
from tasks.results.run_list import list_runs
from tasks.results.run_state import RunState, run_state
from tasks.results.scored_rollouts import check_scored
from tasks.storage.run_files import published_files
from tasks.user_paths import user_path
from tasks.viewing.rollout_query import RolloutQuery, find_page, find_question
from tasks.viewing.run_comparison import compare_runs
from tasks.viewing.run_progress import read_progress

_HOME = ("/", "all runs")


class NoSuchPage(Exception):
    """The address leads to no page, or the run is not there any more."""


@dataclass(frozen=True, kw_only=True)
class RunPages:
    """The pages of the runs in a directory."""

    runs_dir: Path

    def page(self, path: str, fields: Mapping[str, str], chosen: tuple[str, ...] = ()) -> str:
        """Return the page at the quoted ``path``, with the ``fields`` of its query; ``chosen`` are runs to compare.

        A slash at the end of ``path`` changes nothing. Raises NoSuchPage, a HarvestError, or what a library raises
        when files go away meanwhile.
        """
        match (path.removesuffix("/") or "/").split("/")[1:]:
            case [""]:
                return self._runs()
            case ["compare"]:
                return self._comparison(chosen)
            case ["run", name]:
                return self._run(self._found(name))
            case ["run", name, "rollouts"]:
                return self._rollouts(self._found(name), RolloutQuery.of(fields))
            case ["run", name, "question"]:
                return self._question(self._found(name), fields.get("id", ""))
        raise NoSuchPage(f"there is no page {path[:200]!r}")

    def problem(self, words: str) -> str:
        """Return a page that says what is wrong."""
        return _rendered("problem.html.jinja", links=[_HOME], words=words)

    def _found(self, name: str) -> Path:
        """Return the directory of the run. A name is looked for among those that exist, and is never made a path.

        Raises NoSuchPage, or ConfigError for a name that is not UTF-8.
        """
        wanted = os.fsdecode(unquote_to_bytes(name))
        for config in self.runs_dir.glob("*/config.json"):
            if config.parent.name == wanted:
                return user_path(config.parent)
        raise NoSuchPage(f"{self.runs_dir} holds no run {wanted[:200]!r}, or not any more")

    def _runs(self) -> str:
        runs = list_runs(self.runs_dir)
        return _rendered(
            "runs.html.jinja",
            runs=[(address_of(run.run_id), run) for run in runs],
            states=sorted({run.state for run in runs}),
            runs_dir=self.runs_dir,
        )

    def _run(self, run_dir: Path) -> str:
        try:
            check_scored(run_dir)
        except ConfigError:
            return self._progress(run_dir)
        return _report(run_dir, run_state(run_dir), _identity_of(run_dir))

    def _progress(self, run_dir: Path) -> str:
        progress = read_progress(run_dir)
        return _rendered(
            "progress.html.jinja",
            links=_links(run_dir)[:1],
            rollouts_address=f"{address_of(run_dir.name)}/rollouts",
            run=progress,
            reward_plot=reward_plot(
                [ArmPoint(name=arm.arm_id, mean=arm.mean_reward, interval=arm.interval) for arm in progress.arms]
            ),
            timeline_plots=timeline_plots(progress.timeline) if progress.timeline else (),
        )

    def _rollouts(self, run_dir: Path, query: RolloutQuery) -> str:
        return _rendered(
            "rollouts.html.jinja",
            links=_links(run_dir),
            run_id=run_dir.name,
            address=address_of(run_dir.name),
            query=query,
            kinds=KINDS,
            result=find_page(run_dir, query),
        )

    def _question(self, run_dir: Path, example_id: str) -> str:
        question, samples = find_question(run_dir, example_id)
        return _rendered(
            "question.html.jinja",
            links=_links(run_dir),
            run_id=run_dir.name,
            question=question,
            tinted=samples.tinted,
        )

    def _comparison(self, chosen: tuple[str, ...]) -> str:
        if len(chosen) != 2:
            raise ConfigError(f"{len(chosen)} runs are chosen; a comparison is of two. Go back and choose two")
        first, second = (self._found(quote_from_bytes(os.fsencode(name))) for name in chosen)
        return _rendered(
            "compare.html.jinja",
            links=[_HOME, (address_of(first.name), "run A"), (address_of(second.name), "run B")],
            both=compare_runs(first, second),
        )


def address_of(run_id: str) -> str:
    """Return the address of a run's page. The name of a directory may be any bytes."""
    return f"/run/{quote_from_bytes(os.fsencode(run_id), safe='')}"


def _links(run_dir: Path) -> Links:
    address = address_of(run_dir.name)
    return [_HOME, (address, "run"), (f"{address}/rollouts", "all rollouts")]


def _rendered(template: str, **values: object) -> str:
    return visible(page_template(template, served=True).render(values))


@lru_cache(maxsize=8)
def _report(run_dir: Path, state: RunState, identity: tuple[object, ...]) -> str:
    """Return the report of the run, made once for its state and the ``identity`` of its files."""
    links = [link for link in _links(run_dir) if link[1] != "run"]
    return render_page(read_page_data(run_dir), links=links, state=state)


def _identity_of(run_dir: Path) -> tuple[object, ...]:
    return tuple((name, file_identity((run_dir / name).stat())) for name in published_files(run_dir))
