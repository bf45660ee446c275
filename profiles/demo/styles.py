"""The answers that the demo model is trained to give under each arm of `math8.toml`.

The styles differ in how much working comes before the answer, so the arms differ in accuracy: for a small model, two
steps at once are harder than two steps written down.
"""

from collections.abc import Callable

from profiles.demo.questions import Problem, Step

_UNDO = {"+": "-", "-": "+", "*": "/", "/": "*"}


def _equation(step: Step) -> str:
    return f"{step.left} {step.op} {step.right} = {step.result}"


def _expression(problem: Problem) -> str:
    """All steps as one expression: where a step uses an earlier result, the earlier calculation takes its place."""
    first = problem.steps[0]
    inner = f"{first.left} {first.op} {first.right}"
    if len(problem.steps) == 1:
        return inner
    last = problem.steps[1]
    if last.left == first.result:
        left = f"({inner})" if first.op in "+-" and last.op in "*/" else inner
        return f"{left} {last.op} {last.right}"
    return f"{last.left} {last.op} {inner}"


def _step_by_step(problem: Problem) -> str:
    return "\n".join(f"Step {number}: {_equation(step)}" for number, step in enumerate(problem.steps, start=1))


def _concise(problem: Problem) -> str:
    return f"{_expression(problem)} = {problem.answer}"


def _algebra(problem: Problem) -> str:
    last = problem.steps[-1]
    lines = [f"x = {_expression(problem)}"]
    if len(problem.steps) > 1:
        lines.append(f"x = {last.left} {last.op} {last.right}")
    return "\n".join([*lines, f"x = {problem.answer}"])


def _verify(problem: Problem) -> str:
    last = problem.steps[-1]
    check = f"{last.result} {_UNDO[last.op]} {last.right} = {last.left}"
    return "\n".join([*map(_equation, problem.steps), f"Check: {check}"])


def _tutor(problem: Problem) -> str:
    words = ("First", "Now")
    return "\n".join(
        f"{word} find the {step.finds}: {_equation(step)}." for word, step in zip(words, problem.steps, strict=False)
    )


def _estimate(problem: Problem) -> str:
    rough = round(problem.answer / 10) * 10
    guess = f"About {rough}." if rough else "Less than 10."
    return "\n".join([guess, *map(_equation, problem.steps)])


def _facts(problem: Problem) -> str:
    given = ", ".join(map(str, problem.numbers))
    return "\n".join([f"Given: {given}", *map(_equation, problem.steps)])


_WORKING: dict[str, Callable[[Problem], str]] = {
    "step_by_step": _step_by_step,
    "concise": _concise,
    "algebra": _algebra,
    "verify": _verify,
    "direct": lambda problem: "",
    "tutor": _tutor,
    "estimate": _estimate,
    "facts": _facts,
}

STYLED_ARMS = tuple(_WORKING)


def completion(problem: Problem, arm_id: str) -> str:
    """The text that the model is trained to write under this arm, without its end-of-turn token."""
    working = _WORKING[arm_id](problem)
    final = f"#### {problem.answer}"
    return f"{working}\n{final}" if working else final
