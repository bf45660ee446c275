import pytest

from tasks.node.prompt_lengths import measure_prompts


def test_prompts_are_measured_under_every_arm() -> None:
    lengths = measure_prompts(
        [[[0, 0, 0, 1, 2, 8, 9], [0, 0, 0, 1, 2, 3, 4, 5]], [[0, 0, 0, 8, 9], [0, 0, 0, 3, 4, 5]]]
    )
    assert (lengths.sampled, lengths.longest, lengths.mean) == (2, 8, 6.5)
    assert lengths.shared_prefix == (3 + 2 + 3) / 2


def test_no_prompts_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure_prompts([[]])
