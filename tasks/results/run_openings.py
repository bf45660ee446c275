"""How the prompts of a run end that open reasoning, also of a run that was made before this was on record."""

import logging
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from profiles.arm_schema import ArmSet
from tasks.errors import ConfigError
from tasks.node.prompt_check import sample_prompts, sample_questions
from tasks.node.prompt_sample import PromptOrder
from tasks.results.finished_run import read_config
from tasks.scoring.opening_column import read_openings
from tasks.scoring.reasoning_opening import ReasoningOpening
from tasks.storage.run_files import known_shards, scan_shards

logger = logging.getLogger(__name__)


def find_openings(run_dir: Path) -> tuple[ReasoningOpening, ...]:
    """Return the openings on record, else those that the model's template makes now, if the model is still there.

    A template that has changed does no harm: rollouts are told by the token ids that they have. Raises DamagedFile.
    """
    known = read_openings(run_dir)
    if known is not None:
        return known
    config = read_config(run_dir)
    model = Path(str(config.get("model", {}).get("path", "")))
    if not config.get("arms") or not known_shards(run_dir, "questions"):
        return ()
    try:
        if not (model / "config.json").is_file():
            raise ConfigError(f"{model} is not there any more")
        arms = ArmSet.model_validate({"arms": config["arms"]}).arms
        questions = scan_shards(run_dir, "questions").select(pl.col("question")).collect().to_series().to_list()
        order = PromptOrder(
            model_path=model,
            trust_remote_code=False,  # the run may be somebody else's
            arms=arms,
            questions=sample_questions(questions, arms),
            max_tokens=1,
            max_model_len=2,
        )
        return sample_prompts(order, "").openings
    except (ConfigError, ValidationError, OSError) as error:
        logger.warning(
            "whether the prompts of %s open reasoning is not known, so that reasoning which was cut is scored as an "
            "answer: %s",
            run_dir,
            error,
        )
        return ()
