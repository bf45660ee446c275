"""CUDA graphs: which step sizes are captured, and which share of the steps runs in one."""

from itertools import pairwise
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from tasks.node.cuda_graphs import capture_sizes, captured_graphs, expected_graph_share, sizes_of, step_tokens


@pytest.mark.parametrize(
    ("engine", "graphs"),
    [
        ({"enforce_eager": True}, 0),
        ({"max_num_seqs": 4}, 4 + 3),  # sizes 1, 2, 4 and 8; a decode step can have three of them
        ({"max_num_seqs": 256}, 51 + 35),  # 3 + 31 below 256 + 17 up to 512, as vLLM 0.25.1 logs on an H200
        ({}, 51 + 35),
        ({"max_cudagraph_capture_size": 64}, 11 + 11),
        ({"max_num_seqs": 1024, "max_cudagraph_capture_size": 2048}, 147 + 83),  # took a minute on an H100
        ({"max_num_seqs": 16, "cudagraph_capture_sizes": [8, 16, 32]}, 3 + 2),
    ],
)
def test_captured_graphs_follow_vllm(engine: dict[str, Any], graphs: int) -> None:
    assert captured_graphs(EngineSettings.model_validate(engine)) == graphs


@pytest.mark.parametrize(("sequences", "tokens"), [(1, 2048), (256, 2048), (1024, 2048), (2000, 4000)])
def test_a_step_has_room_for_prompts_beside_all_sequences(sequences: int, tokens: int) -> None:
    assert step_tokens(sequences) == tokens


@pytest.mark.parametrize("sequences", [1, 3, 100, 256, 1000, 1024, 3000])
def test_graphs_cover_every_step_without_much_padding(sequences: int) -> None:
    largest = step_tokens(sequences)
    sizes = capture_sizes(sequences, largest)
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[-1] == largest
    assert sequences in sizes
    assert all(above - below <= max(16, below / 8) for below, above in pairwise(sizes))


def test_four_times_as_large_steps_take_no_more_graphs_than_vllm_captures_itself() -> None:
    engine = EngineSettings(max_num_seqs=1024, cudagraph_capture_sizes=capture_sizes(1024, 2048))
    assert captured_graphs(engine) == 80
    assert captured_graphs(engine) <= captured_graphs(EngineSettings())
    assert max(sizes_of(engine)) == 4 * max(sizes_of(EngineSettings()))


@pytest.mark.parametrize(
    ("engine", "most_tokens", "running", "prompt", "completion", "share"),
    [
        pytest.param({"max_cudagraph_capture_size": 2048}, 2048, 1024, 150, 96, 1.0, id="no step is larger"),
        pytest.param({"enforce_eager": True}, 8192, 256, 150, 96, 0.0, id="eager"),
        pytest.param({}, 16384, 600, 150, 96, 0.0, id="more sequences than tokens in the largest graph"),
        # 256 sequences of 96 tokens: 2.7 end in each step, a question of eight begins in every third
        pytest.param({}, 16384, 256, 150, 96, 2 / 3, id="a question's prompts are too many"),
        pytest.param({}, 16384, 256, 30, 96, 1.0, id="a question's prompts fit as well"),
        pytest.param({}, 16384, 256, 150, 10, 0.0, id="a question begins in every step"),
    ],
)
def test_the_expected_share_of_steps_in_a_graph(
    engine: dict[str, Any], most_tokens: int, running: int, prompt: float, completion: float, share: float
) -> None:
    settings = EngineSettings.model_validate(engine)
    found = expected_graph_share(
        settings, most_tokens, running=running, per_question=8, prompt=prompt, completion=completion
    )
    assert found == pytest.approx(share)
