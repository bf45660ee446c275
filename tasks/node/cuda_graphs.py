"""CUDA graphs: which step sizes an engine captures, and which share of its steps runs in one.

A step that has more tokens than the largest captured graph launches its kernels one by one from Python, while the GPU
waits. A step has a token per sequence that decodes, and the prompts of those that begin. vLLM captures up to 512 tokens
by itself. With 256 sequences on an H100 that made 8,114 tokens/s, and 10,829 with graphs up to 2,048.
"""

from profiles.engine_settings import EngineSettings

LARGEST_DEFAULT_CAPTURE = 512
"""vLLM's own largest capture size (config/vllm.py, ``_set_cudagraph_sizes``)."""
LEAST_STEP_TOKENS = 2048
"""Smallest size of the largest step that is captured. At 300 tokens in bfloat16 a Hopper GPU is no longer bound by
memory, so that larger steps do not make the GPU faster."""
_FINE_STEP = 16
_PARTS = 8


def step_tokens(sequences: int) -> int:
    """Most tokens of a step that all run in graphs: ``sequences`` that decode, and as many tokens of prompts."""
    return max(LEAST_STEP_TOKENS, 2 * sequences)


def capture_sizes(sequences: int, largest: int) -> tuple[int, ...]:
    """Step sizes to capture for at most ``sequences`` and ``largest`` tokens in a step, in ascending order.

    Above 256 each doubling has eight sizes: a step is padded by at most an eighth. Up to 2,048 tokens these are no more
    graphs than vLLM captures up to 512, each of which takes a quarter of a second at the start.
    """
    sizes = {1, 2, 4, 8, *range(_FINE_STEP, 257, _FINE_STEP)}
    base = 256
    while base < largest:
        sizes |= set(range(base, 2 * base + 1, base // _PARTS))
        base *= 2
    # a full batch that only decodes is the most frequent step of all
    return tuple(sorted({size for size in sizes if size < largest} | {min(sequences, largest), largest}))


def sizes_of(engine: EngineSettings) -> tuple[int, ...]:
    """Step sizes that the engine captures: those of ``engine``, or else vLLM's own; none when it runs eagerly.

    vLLM's own are 1, 2, 4, then steps of 8 up to 256 and of 16 above (config/vllm.py).
    """
    if engine.enforce_eager:
        return ()
    if engine.cudagraph_capture_sizes is not None:
        return engine.cudagraph_capture_sizes
    largest = engine.max_cudagraph_capture_size or min(2 * engine.sequences, LARGEST_DEFAULT_CAPTURE)
    return tuple(size for size in [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)] if size <= largest)


def captured_graphs(engine: EngineSettings) -> int:
    """Number of graphs: one per size for steps with prompts, and one per size that a step of decoding can have."""
    sizes = sizes_of(engine)
    return len(sizes) + sum(size <= engine.sequences for size in sizes)


def expected_graph_share(
    engine: EngineSettings, most_tokens: int, *, running: int, per_question: int, prompt: float, completion: float
) -> float:
    """Expected share (of 1) of the steps that run in a graph, once ``running`` sequences do.

    ``most_tokens`` is the limit of a step; ``prompt`` and ``completion`` are mean lengths in tokens. Questions are
    admitted whole, with ``per_question`` prompts. Cached prefixes are not counted, so the true share may be higher.
    """
    largest = max(sizes_of(engine), default=0)
    if largest >= most_tokens:
        return 1.0
    if running > largest:
        return 0.0
    if running + per_question * prompt <= largest:
        return 1.0
    questions_per_step = running / max(completion, 1.0) / per_question
    return max(0.0, 1.0 - questions_per_step)
