"""A mismatch report with a given text wherever it has one of others, for tests of what reads one."""

import numpy as np

from tasks.comparison.importance_ratios import sequence_ratios, token_ratios
from tasks.comparison.mismatch_report import (
    DIRECTION,
    ArmMismatch,
    GapAtPositions,
    MismatchReport,
    TemperatureFit,
    WorstToken,
)


def mismatch_report(text: str = "as the test says") -> MismatchReport:
    """A report of one rollout of two tokens, the second of which the truncation cuts off."""
    engine, full = np.array([-1.0, -2.0]), np.array([-1.5, -2.0])
    return MismatchReport(
        run_id=text,
        model=text,
        same_weights=True,
        dtype="bfloat16",
        device="cuda",
        engine=text,
        trainer=text,
        seed=0,
        rollouts=1,
        eligible=4,
        error_rows=1,
        empty_completions=2,
        compared=text,
        direction=DIRECTION,
        full=token_ratios(engine, full),
        truncated=token_ratios(engine, np.array([-1.0, -np.inf])),
        sequences=sequence_ratios([full - engine]),
        temperatures=TemperatureFit(
            tokens=2, stated=0.7, best=1.0, gap_at_stated=0.25, gap_at_best=0.125, tried=(0.7, 1.0)
        ),
        positions=(
            GapAtPositions(first=0, last=0, tokens=1, mean_gap=0.0),
            GapAtPositions(first=1, last=7, tokens=1, mean_gap=None),
        ),
        arms=(ArmMismatch(arm_id=text, rollouts=1, tokens=2, mean_gap=0.0, prompts_differ=1),),
        worst=(
            WorstToken(
                rollout_id=text,
                arm_id=text,
                position=1,
                token_id=7,
                text=text,
                before=text,
                engine_logprob=-2.0,
                trainer_logprob=None,
            ),
        ),
        notes=(text,),
    )
