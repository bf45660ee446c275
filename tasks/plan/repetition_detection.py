"""When a completion that repeats itself is ended: vLLM's detection of repeated n-grams."""

from pydantic import Field, model_validator

from profiles.settings import MOST_TOKENS, Settings
from tasks.errors import ConfigError


class RepetitionDetection(Settings):
    """A completion ends, with finish reason "repetition", when one pattern of tokens stands ``min_count`` times in a
    row at its end. The names and bounds are those of vLLM's ``RepetitionDetectionParams``."""

    max_pattern_size: int = Field(ge=1, le=MOST_TOKENS)
    """Longest pattern that is looked for, in tokens."""
    min_count: int = Field(ge=2, le=MOST_TOKENS)
    """Times that it must stand in a row."""
    min_pattern_size: int = Field(1, ge=1, le=MOST_TOKENS)
    """Shortest pattern that is looked for, in tokens."""

    @model_validator(mode="after")
    def _has_sizes(self) -> "RepetitionDetection":
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(
                f"min_pattern_size is {self.min_pattern_size}, above max_pattern_size {self.max_pattern_size}"
            )
        return self


def parse_repetition(text: str) -> RepetitionDetection:
    """Read "MAX_PATTERN_SIZE:MIN_COUNT" or "MAX_PATTERN_SIZE:MIN_COUNT:MIN_PATTERN_SIZE". Raises ConfigError."""
    try:
        most, count, *least = map(int, text.split(":"))
        if len(least) > 1:
            raise ValueError
        return RepetitionDetection(max_pattern_size=most, min_count=count, min_pattern_size=least[0] if least else 1)
    except ValueError:
        raise ConfigError(
            f"repetition_detection is {text!r}; give MAX_PATTERN_SIZE:MIN_COUNT, the longest pattern in tokens (at "
            "least 1) and how often it must stand in a row (at least 2), such as 20:8, and if need be :MIN_PATTERN_SIZE"
        ) from None


def repetition_text(value: dict[str, int]) -> str:
    """Return the text from which ``parse_repetition`` reads the dump ``value``."""
    return f"{value['max_pattern_size']}:{value['min_count']}:{value['min_pattern_size']}"
