"""Advises on settings that make a run slower than the hardware allows. It changes no setting itself."""

from collections.abc import Callable
from dataclasses import dataclass

from profiles.schema import AUTO, Profile
from tasks.node.cuda_graphs import step_tokens
from tasks.node.memory_plan import MemoryPlan
from tasks.node.passed_on_memory import stated_kv_bytes
from tasks.node.prompt_lengths import PromptLengths
from tasks.units import GIB

FAR_ABOVE = 2.0
"""max_model_len is too large when it is more than this many times the length that the sequences need."""

GOOD_UTILIZATION = 0.90
BEST_UTILIZATION = 0.95
HELD_BACK = 1.5
"""A larger question batch is advised when the KV cache holds at least this many batches."""

GOOD_GRAPH_SHARE = 0.9
USUAL_LARGEST_BATCH = 512
LONG_PREFIX = 64
HIGH_TRUNCATION = 0.05


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One suggestion, its reason, and its expected effect, in words."""

    setting: str
    """The setting that the suggestion changes."""
    suggestion: str
    reason: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class AdviceInputs:
    """The facts that advice is based on."""

    profile: Profile
    plan: MemoryPlan
    max_tokens: int
    """Most tokens of a completion."""
    prompts: PromptLengths | None = None
    truncation_rate: float | None = None
    """Share (of 1) of a previous run's completions that were cut at max_tokens."""
    free_bytes: int | None = None
    """Free memory of the smallest GPU that the profile uses, in bytes."""
    replan: Callable[[Profile], MemoryPlan] | None = None
    """Makes the memory plan of a changed profile."""

    @property
    def on_gpu(self) -> bool:
        return self.profile.expect.device == "cuda"


def give_advice(inputs: AdviceInputs) -> tuple[Advice, ...]:
    """Every piece of advice that applies; the one with the largest likely effect comes first."""
    rules = (
        _eager,
        _parallel_size,
        _graphs,
        _question_batch,
        _in_flight,
        _prefix_caching,
        _utilization,
        _model_length,
        _truncation,
    )
    return tuple(advice for advice in (rule(inputs) for rule in rules) if advice is not None)


def _eager(inputs: AdviceInputs) -> Advice | None:
    if not inputs.on_gpu or not inputs.profile.engine.enforce_eager:
        return None
    return Advice(
        setting="enforce_eager",
        suggestion="set enforce_eager = false",
        reason="every decode step launches its kernels one by one from Python, and the GPU waits meanwhile",
        effect="CUDA graphs: faster decoding, most of all for small models and batches; start-up takes a little longer "
        "and the graphs take about 1 GiB",
    )


def _graphs(inputs: AdviceInputs) -> Advice | None:
    plan, engine = inputs.plan, inputs.profile.engine
    share = plan.expected_graph_share
    if engine.enforce_eager or share is None or share >= GOOD_GRAPH_SHARE:
        return None
    largest = step_tokens(engine.sequences)
    tokens = f"max_num_batched_tokens = {largest} and " if engine.enable_chunked_prefill else ""
    return Advice(
        setting="max_cudagraph_capture_size",
        suggestion=f'set question_batch_size = "auto", or {tokens}max_cudagraph_capture_size = {largest}',
        reason=f"a step with prompts has more tokens than the largest CUDA graph ({plan.graph_tokens:,}): an estimated "
        f"{100 * (1 - share):.0f}% of the steps run without one",
        effect="no step waits for kernels that Python launches one by one",
    )


def _parallel_size(inputs: AdviceInputs) -> Advice | None:
    size = inputs.profile.engine.tensor_parallel_size
    if not inputs.on_gpu or inputs.replan is None:
        return None
    for smaller in (candidate for candidate in range(1, size) if size % candidate == 0):
        replicas = inputs.profile.replicas * size // smaller
        engine = inputs.profile.engine.model_copy(update={"tensor_parallel_size": smaller})
        plan = inputs.replan(inputs.profile.model_copy(update={"engine": engine, "replicas": replicas}))
        # a chosen batch always fits, but it may be smaller
        if plan.batch_fits and plan.in_flight >= inputs.plan.in_flight and not (plan.problems or plan.doubts):
            return Advice(
                setting="tensor_parallel_size",
                suggestion=f"use {replicas} replicas of tensor_parallel_size {smaller} on the same GPUs",
                reason=f"the model ({(plan.weight_bytes or 0) / GIB:.1f} GiB of weights per GPU) and its batch fit "
                f"at {smaller}; at {size} the GPUs exchange activations twice a layer",
                effect="no or less communication between GPUs, and as many questions in flight per replica as before",
            )
    return None


def _question_batch(inputs: AdviceInputs) -> Advice | None:
    plan, batch = inputs.plan, inputs.profile.question_batch_size
    if not inputs.on_gpu or plan.sequences_at_expected is None or batch == AUTO:
        return None
    per_question = plan.in_flight // batch
    seats = min(plan.sequences_at_expected, max(inputs.profile.engine.sequences, USUAL_LARGEST_BATCH))
    better = seats // per_question
    if seats < HELD_BACK * plan.in_flight or better <= batch:
        return None
    needed = better * per_question
    also = f" and max_num_seqs = {needed}" if needed > inputs.profile.engine.sequences else ""
    return Advice(
        setting="question_batch_size",
        suggestion=f'set question_batch_size = "auto", or {better}{also}',
        reason=f"{plan.in_flight} sequences are in flight, but the KV cache holds {plan.sequences_at_expected:,} of "
        f"the expected {plan.expected_length} tokens",
        effect="more sequences per decode step: decoding is bound by reading the weights, which larger batches share",
    )


def _in_flight(inputs: AdviceInputs) -> Advice | None:
    seats, batch = inputs.profile.engine.sequences, inputs.profile.question_batch_size
    if batch == AUTO or inputs.plan.in_flight <= seats:
        return None
    per_question = inputs.plan.in_flight // batch
    return Advice(
        setting="max_num_seqs",
        suggestion=f"raise max_num_seqs to {inputs.plan.in_flight}, "
        f"or set question_batch_size = {max(1, seats // per_question)}",
        reason=f"{inputs.plan.in_flight} sequences are in flight, and {seats} may run: the others wait in the queue",
        effect="a larger decode batch if the KV cache holds it, else fewer unfinished questions at a time",
    )


def _prefix_caching(inputs: AdviceInputs) -> Advice | None:
    engine, prompts = inputs.profile.engine, inputs.prompts
    if engine.enable_prefix_caching or engine.batch_invariant or prompts is None or prompts.shared_prefix < LONG_PREFIX:
        return None
    share = prompts.shared_prefix / prompts.mean
    return Advice(
        setting="enable_prefix_caching",
        suggestion="set enable_prefix_caching = true",
        reason=f"the prompts of an arm share their first {prompts.shared_prefix:.0f} tokens of {prompts.mean:.0f}",
        effect=f"about {100 * share:.0f}% of the prompt tokens are computed once instead of for every question",
    )


def _utilization(inputs: AdviceInputs) -> Advice | None:
    engine, plan = inputs.profile.engine, inputs.plan
    if not inputs.on_gpu or plan.device_bytes is None or engine.gpu_memory_utilization >= GOOD_UTILIZATION:
        return None
    if stated_kv_bytes(engine) is not None:
        return None
    if inputs.free_bytes is not None and inputs.free_bytes < BEST_UTILIZATION * plan.device_bytes:
        return None
    gained = int((BEST_UTILIZATION - engine.gpu_memory_utilization) * plan.device_bytes)
    tokens = f", {gained // plan.kv_bytes_per_token:,} tokens" if plan.kv_bytes_per_token else ""
    return Advice(
        setting="gpu_memory_utilization",
        suggestion=f"raise gpu_memory_utilization from {engine.gpu_memory_utilization:g} to {BEST_UTILIZATION:g}",
        reason=f"{(1 - engine.gpu_memory_utilization) * plan.device_bytes / GIB:.1f} GiB of each GPU stay unused",
        effect=f"{gained / GIB:.1f} GiB more KV cache per GPU{tokens}",
    )


def _model_length(inputs: AdviceInputs) -> Advice | None:
    length, prompts = inputs.profile.engine.max_model_len, inputs.prompts
    if prompts is None or length <= FAR_ABOVE * (prompts.p99 + inputs.max_tokens):
        return None
    enough = -(-(prompts.longest + inputs.max_tokens) // 256) * 256
    return Advice(
        setting="max_model_len",
        suggestion=f"set max_model_len = {enough}",
        reason=f"99% of the prompts have at most {prompts.p99} tokens and completions at most {inputs.max_tokens}, "
        f"but the engine is built for {length}",
        effect="smaller buffers, and the engine starts with room for a shorter sequence in its KV cache; a prompt "
        f"longer than the longest of the {prompts.sampled} sampled ({prompts.longest}) would give error rows",
    )


def _truncation(inputs: AdviceInputs) -> Advice | None:
    if inputs.truncation_rate is None or inputs.truncation_rate <= HIGH_TRUNCATION:
        return None
    return Advice(
        setting="max_tokens",
        suggestion=f"raise max_tokens above {inputs.max_tokens}",
        reason=f"{100 * inputs.truncation_rate:.0f}% of the previous run's completions were cut at the limit",
        effect="completions reach their answer, so rewards rise; a cut completion costs GPU time and scores 0",
    )
