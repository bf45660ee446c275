"""The check of a run's prompts, before anything is loaded: what ``tasks.node.prompt_sample`` finds of them."""

import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from profiles.arm_schema import Arm
from tasks.errors import ConfigError, DamagedFile, HarvestError
from tasks.files import publish_json
from tasks.node.check_result import CheckResult
from tasks.node.kept_prompts import keep, kept_path, read_kept
from tasks.node.prompt_sample import PromptOrder, PromptSample, render_prompts
from tasks.plan.prompts import build_messages
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths
from tasks.storage.published import read_published, recorded_path
from tasks.subprocess_call import call_in_subprocess

SAMPLE = 64
"""Most questions in the sample."""
_LONGEST_SAMPLED = 100_000
"""Characters of the longest question in the sample."""
_MOST_CHARACTERS = 2_000_000
"""Most characters of prompts that are encoded, a few seconds of work."""
_HEADER = 32
"""Characters that a chat template puts around a message."""
NO_QUESTION = "every question is empty, so there is no prompt to make. Choose another question column"


def check_rendered(plan: RunPlan) -> None:
    """Raise ConfigError when nothing useful can come of the plan's prompts. A run that has begun may go on."""
    if not plan.paths.config.exists():
        refuse_problems(find_prompts(plan))


def refuse_problems(sample: PromptSample) -> None:
    """Raise ConfigError with the problems of ``sample``, if there are any."""
    if sample.problems:
        first, *more = sample.problems
        others = f" ({len(more)} more: {'; '.join(more)})" if more else ""
        raise ConfigError(first + others)


def find_prompts(plan: RunPlan) -> PromptSample:
    """Return what is known of the plan's prompts: what is on record, or is found now by a subprocess.

    Raises ConfigError when the prompts cannot be made.
    """
    try:
        known = read_prompts(plan.paths.root)
    except DamagedFile:
        known = None  # the run sets it aside and makes it again
    return known or sample_prompts(order_of(plan), str(plan.comparable))


def record_prompts(plan: RunPlan, *beside: RunPlan) -> PromptSample:
    """Publish prompts.json of the run, unless it is there, and return its content. Raises ConfigError.

    The runs ``beside`` it on its engines have the same prompts, so they get the same file.
    """
    known = find_prompts(plan)
    for paths in (each.paths for each in (plan, *beside)):
        if not paths.prompts.is_file():
            publish_json(asdict(known), paths.prompts, recorded_path)
    return known


def read_prompts(run_dir: Path) -> PromptSample | None:
    """Return the content of the run's prompts.json, or None when it has none. Raises DamagedFile."""
    return read_published(RunPaths(root=run_dir).prompts, PromptSample)


def check_prompt_sample(sample: PromptSample) -> CheckResult:
    """The check of ``sample``, which warns. Problems have been refused, unless the run had begun before."""
    if told := (*sample.problems, *sample.warnings):
        return CheckResult(name="prompts", status="warn", value="; ".join(told))
    if sample.lengths is None:
        return CheckResult(name="prompts", status="skipped", value="every question is empty")
    value = f"those of {sample.lengths.sampled} questions have up to {sample.lengths.longest:,} tokens"
    return CheckResult(name="prompts", status="pass", value=value)


def order_of(plan: RunPlan) -> PromptOrder:
    """The order for a sample of the plan's questions under all of its arms."""
    return PromptOrder(
        model_path=plan.model.path,
        trust_remote_code=plan.profile.engine.trust_remote_code,
        arms=plan.arms.arms,
        questions=sample_questions(plan.questions["question"].to_list(), plan.arms.arms),
        max_tokens=plan.config.sampling.max_tokens,
        max_model_len=plan.profile.engine.max_model_len,
    )


def sample_questions(questions: Sequence[str], arms: Sequence[Arm]) -> tuple[str, ...]:
    """Evenly spread ``questions``, among them the longest and the shortest, without empty and immense ones.

    There are fewer when their prompts under ``arms`` are long.
    """
    asked = [question for question in questions if question]
    usable = [question for question in asked if len(question) <= _LONGEST_SAMPLED] or [min(asked, key=len, default="")]
    if not usable[0]:
        return ()
    longest, shortest = max(usable, key=len), min(usable, key=len)
    characters = sum(_HEADER + len(message["content"]) for arm in arms for message in build_messages(arm, longest))
    size = max(1, min(SAMPLE, _MOST_CHARACTERS // characters))
    step = max(1, len(usable) // size)
    return tuple(dict.fromkeys([*usable[::step][:size], longest, shortest]))


def sample_prompts(order: PromptOrder, model: str) -> PromptSample:
    """Return what a subprocess finds of the prompts of ``order``; once per process for one order and ``model``.

    What it found at another time is kept on this node, for prompts of which there is nothing to say.

    Raises ConfigError.
    """
    key = pickle.dumps((order, model))
    if key not in _known:
        path = kept_path(order, os.environ)
        found = (path and read_kept(path, order)) or _in_subprocess(order)
        if path:
            keep(found, path)
        _known[key] = found
    return _known[key]


_known: dict[bytes, PromptSample] = {}


def _in_subprocess(order: PromptOrder) -> PromptSample:
    if not order.questions:
        return PromptSample(problems=(NO_QUESTION,))
    with tempfile.TemporaryDirectory(prefix="harvest-prompts-") as directory:
        try:
            return call_in_subprocess(render_prompts, "the check of the prompts", Path(directory) / "log", order)
        except ConfigError:
            raise
        except HarvestError as error:
            raise ConfigError(
                f"the prompts of {order.model_path} cannot be made: {str(error).partition(' (log')[0]}. Check its "
                "tokenizer and its chat template"
            ) from None
