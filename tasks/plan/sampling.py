"""How completions are sampled, in vLLM's names and bounds (``vllm/sampling_params.py`` of 0.32)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from profiles.settings import MOST_SAMPLES, MOST_TOKENS, Settings
from tasks.errors import ConfigError
from tasks.plan.output_lengths import OutputLengths
from tasks.plan.parameters import AsGiven
from tasks.plan.repetition_detection import RepetitionDetection
from tasks.plan.stopping_rule import StoppingRule, wave_ends

LEAST_TEMPERATURE = 0.01
"""vLLM raises a lower one to this without saying so; 0 is greedy."""
MOST_TOP_K = 2**31 - 1
MOST_BAD_WORDS = 64
"""vLLM takes 128 token sequences, and makes two of a word: at the start of a text, and after a space."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]

FROM_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""The fields that a model's generation_config.json may set: those that vLLM's server takes from it."""
LATER_FIELDS = (
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens"),
    *("stop", "stop_token_ids", "bad_words", "repetition_detection"),
)
"""Fields that came after the first release: fingerprints, requests and columns hold them only where they are set."""
STOPPING_FIELDS = ("max_samples_per_arm", "sample_until", "wave_size")
"""How many samples beyond the first a group gets: no part of how one is sampled."""
STORED_FIELDS = ("sampling_mask", "routed_experts")
"""What is stored beside the tokens, and changes none of them."""


def _off(value: Any) -> Any:
    # vLLM takes both for "all tokens"
    return 0 if type(value) is int and value == -1 else value


def _canonical_rule(given: Any) -> Any:
    """Return the one text of a rule, so that the same rule gives the same fingerprint."""
    if not isinstance(given, str):
        return given
    try:
        return str(StoppingRule.parse(given))
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("sample_until ")) from None


def _optional(kind: Any, **bounds: Any) -> AsGiven:
    """Not given is told from given, because a model's own value gives way only to a given one."""
    return AsGiven(type=Annotated[kind, Field(**bounds)] | None, default=None)


class Sampling(Settings):
    """How completions are sampled. The fingerprint includes it."""

    temperature: Annotated[float, _optional(float, ge=0.0, le=2.0)] = Field(0.7, title="Temperature", ge=0.0, le=2.0)
    """Softmax temperature; 0 is greedy; by default 0.7, or the model's with sampling model."""
    top_p: Annotated[float, _optional(float, gt=0.0, le=1.0)] = Field(1.0, title="Top p", gt=0.0, le=1.0)
    """Nucleus sampling mass; by default 1, which is all."""
    source: Annotated[Literal["model"] | None, AsGiven(name="sampling")] = Field(None, title="Sampling of")
    """model takes what is not given of temperature, top_p, top_k, min_p and the penalties from the model's own
    generation_config.json."""
    top_k: Annotated[int, BeforeValidator(_off), _optional(int, ge=-1, le=MOST_TOP_K)] = Field(
        0, title="Top k", ge=0, le=MOST_TOP_K
    )
    """Sample only from so many of the most likely tokens; by default 0, which is all, as is -1."""
    min_p: Annotated[float, _optional(float, ge=0.0, le=1.0)] = Field(0.0, title="Min p", ge=0.0, le=1.0)
    """Sample only tokens at least this likely, relative to the most likely one; by default 0, which is all."""
    repetition_penalty: Annotated[float, _optional(float, gt=0.0, le=100.0)] = Field(
        1.0, title="Repetition penalty", gt=0.0, le=100.0
    )
    """Above 1, tokens of the prompt and the completion become less likely; by default 1, which is none."""
    presence_penalty: Annotated[float, _optional(float, ge=-2.0, le=2.0)] = Field(
        0.0, title="Presence penalty", ge=-2.0, le=2.0
    )
    """Taken off the logit of every token that the completion has; by default 0."""
    frequency_penalty: Annotated[float, _optional(float, ge=-2.0, le=2.0)] = Field(
        0.0, title="Frequency penalty", ge=-2.0, le=2.0
    )
    """Taken off the logit of a token as often as the completion has it; by default 0."""
    max_tokens: int = Field(512, title="Completion tokens at most", ge=1, le=MOST_TOKENS)
    """Longest completion, in tokens."""
    min_tokens: int = Field(0, title="Completion tokens at least", ge=0, le=MOST_TOKENS)
    """Tokens before which nothing ends a completion."""
    samples_per_arm: int = Field(1, title="Samples per arm", ge=1, le=MOST_SAMPLES)
    """Completions per question and arm; with sample_until the least."""
    max_samples_per_arm: int | None = Field(None, title="Samples per arm at most", ge=2, le=MOST_SAMPLES)
    """With sample_until: the most completions per question and arm."""
    sample_until: Annotated[str | None, BeforeValidator(_canonical_rule), AsGiven(type=str | None)] = Field(
        None, title="Sample until"
    )
    """Sample a question under an arm until correct:K (K rollouts are right), mixed or mixed:K (K are right and K are
    wrong) or width:W (the 95% interval of the pass rate is narrower than W); joined by commas, the first that holds."""
    wave_size: int | None = Field(None, title="Samples per wave", ge=1, le=MOST_SAMPLES)
    """With sample_until: completions per question and arm between two looks at the rule; by default samples_per_arm."""
    seed: Annotated[int, AsGiven(type=Seed | Literal["{date}"])] = Field(0, title="Seed", ge=0, lt=2**63)
    """Seed of the run, from which each request's seed is made; in Prefect's form, {date} is the day as a number."""
    top_logprobs: Annotated[int, AsGiven(type=Annotated[int, Field(ge=0, le=20)] | None, default=None)] = Field(
        0, title="Top logprobs", ge=0, le=20
    )
    """How many of the most likely tokens to store per position; by default 5 for runs that are compared, else none."""
    lengths: Annotated[OutputLengths | None, AsGiven(type=str | None)] = Field(None, title="Lengths")
    """For benchmarks: draw completion lengths, lognormal[:MEDIAN[:SIGMA]] in tokens, and ignore end tokens."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AsGiven(type=list[str] | None, default=None)] = (
        Field((), title="Stop strings")
    )
    """Strings that end a completion: the text is cut before them, the token ids are kept as sampled."""
    stop_token_ids: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AsGiven(type=list[int] | None, default=None)] = (
        Field((), title="Stop tokens")
    )
    """Token ids that end a completion, besides the model's own end tokens."""
    bad_words: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], AsGiven(type=list[str] | None, default=None)
    ] = Field((), title="Bad words", max_length=MOST_BAD_WORDS)
    """Texts that must not be generated."""
    repetition_detection: Annotated[RepetitionDetection | None, AsGiven(type=str | None)] = Field(
        None, title="Repetition detection"
    )
    """End a completion that repeats itself: MAX_PATTERN_SIZE:MIN_COUNT[:MIN_PATTERN_SIZE], in tokens and times in a
    row, such as 20:8."""
    sampling_mask: bool = Field(False, title="Sampling mask")
    """Store for each token which tokens it was sampled from, for trainers; needs top_k and a GPU."""
    routed_experts: bool = Field(False, title="Routed experts")
    """Store which experts each token went to, for trainers; needs a mixture of experts and a GPU."""

    @model_validator(mode="after")
    def _can_be_done(self) -> "Sampling":
        random = None if self.source else self._not_random()
        for problem in (self._misfit(), self._ends_early(), random, self._never_stops()):
            if problem:
                raise ValueError(problem)
        return self

    def _misfit(self) -> str | None:
        if 0 < self.temperature < LEAST_TEMPERATURE:
            return (
                f"temperature is {self.temperature}, and vLLM would sample at {LEAST_TEMPERATURE}. Give 0 for greedy "
                f"sampling, or {LEAST_TEMPERATURE} or more"
            )
        if self.min_tokens > self.max_tokens:
            return f"min_tokens is {self.min_tokens}, above max_tokens {self.max_tokens}. Lower it, or raise max_tokens"
        if blank := [word for word in self.bad_words if not word.strip()]:
            return f"bad_words has {blank[0]!r}, which has no token. Give texts that are not blank"
        return None

    def _ends_early(self) -> str | None:
        """What would end a completion before its drawn length, or keeps it from ending there."""
        ends = ("stop", "stop_token_ids", "min_tokens", "repetition_detection")
        given = next((name for name in ends if getattr(self, name)), None)
        if self.lengths is None or given is None:
            return None
        if given == "stop":
            return "stop strings would end completions before their drawn lengths. Give stop or lengths"
        return f"{given} and lengths both say when a completion ends. Give {given} or lengths"

    def _not_random(self) -> str | None:
        greedy = self.greedy_by
        if greedy and self.most_samples > 1:
            name = "samples_per_arm" if self.sample_until is None else "max_samples_per_arm"
            return (
                f"{name} is {self.most_samples} at {greedy}, which gives the same completion each time. "
                f"{'Set samples_per_arm to 1' if self.sample_until is None else 'Leave out sample_until'} or raise the "
                f"temperature{'' if self.temperature == 0 else f' and leave out {greedy.split()[0]}'}"
            )
        if self.sampling_mask and (self.temperature == 0 or self.top_k == 0):
            return (
                f"sampling_mask needs a temperature above 0 and a top_k of at least 1, which bounds what is stored; "
                f"temperature is {self.temperature:g} and top_k {self.top_k}. Give --top-k, such as 512, or leave out "
                "--sampling-mask"
            )
        return None

    def _never_stops(self) -> str | None:
        """What of the rule by which groups stop is missing, or can do nothing."""
        rule, most = self.sample_until, self.max_samples_per_arm
        if rule is None:
            given = next((name for name in STOPPING_FIELDS if getattr(self, name) is not None), None)
            return given and (
                f"{given} is {getattr(self, given)}, but no rule says when a group needs no more samples. Give "
                f"sample_until, such as mixed, or leave out {given}"
            )
        if most is None:
            return (
                f"sample_until is {rule}, but nothing says how many samples a group gets that never fits it. Give "
                "max_samples_per_arm"
            )
        if most <= self.samples_per_arm:
            return (
                f"max_samples_per_arm is {most}, and each group has {self.samples_per_arm} samples at least "
                "(samples_per_arm): no group could get more. Raise max_samples_per_arm, or leave out sample_until"
            )
        if never := StoppingRule.parse(rule).out_of_reach(most):
            return (
                f"sample_until has {never[0]}, which no group of up to {most} samples can fit. Raise "
                "max_samples_per_arm, or change the condition"
            )
        return None

    @property
    def most_samples(self) -> int:
        """Completions per question and arm at most."""
        return self.max_samples_per_arm or self.samples_per_arm

    @property
    def wave_ends(self) -> tuple[int, ...]:
        """How many samples a group has after each wave; without a rule there is one."""
        return wave_ends(self.samples_per_arm, self.wave_size or self.samples_per_arm, self.most_samples)

    @property
    def greedy_by(self) -> str | None:
        """What makes every sample the same, in words; None when chance decides."""
        if self.temperature == 0:
            return "temperature 0"
        return "top_k 1" if self.top_k == 1 else "min_p 1" if self.min_p == 1 else None


UNSET = Sampling().model_dump(mode="json")
"""The dump of a sampling that sets nothing."""


def set_fields(sampling: Sampling) -> dict[str, Any]:
    """Return the JSON values, by name, of those LATER_FIELDS that are not at their default."""
    return sampling.model_dump(mode="json", include={*LATER_FIELDS}, exclude_defaults=True)


def recorded_sampling(sampling: Sampling) -> dict[str, Any]:
    """Return ``sampling`` as fingerprints hold it: what came later only where it is set, nothing of what is stored."""
    left_out = {*LATER_FIELDS} - set_fields(sampling).keys() | {
        "seed",
        "top_logprobs",
        "source",
        *STOPPING_FIELDS,
        *STORED_FIELDS,
    }
    return sampling.model_dump(mode="json", exclude=left_out, exclude_none=True)


def run_sampling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the dump of the sampling in a config.json; empty in one that has none."""
    asked = config.get("config")
    sampling = asked.get("sampling") if isinstance(asked, dict) else None
    return sampling if isinstance(sampling, dict) else {}


def told_fields(sampling: Mapping[str, Any]) -> list[str]:
    """Return what the dump ``sampling`` sets beside temperature, top_p and max_tokens, such as "top_k 20"."""
    return [f"{name} {sampling[name]}" for name in LATER_FIELDS if sampling.get(name, UNSET[name]) != UNSET[name]]


def truncated_by(sampling: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what leaves tokens out of the distribution, such as "top_p 0.8", of the dump ``sampling``."""
    if sampling.get("temperature") == 0:
        return ()
    all_of = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    return tuple(f"{name} {value}" for name, off in all_of.items() if (value := sampling.get(name, off)) != off)


def truncation_warning(sampling: Mapping[str, Any]) -> str | None:
    """Return why a trainer may not take the logprobs of a run with the dump ``sampling`` as they are, or None."""
    cut = truncated_by(sampling)
    if not cut or sampling.get("sampling_mask"):
        return None
    return (
        f"logprobs are of the distribution that {', '.join(cut)} truncates, so that importance ratios against a "
        "trainer's full distribution are biased; --sampling-mask stores what a trainer needs to correct it"
    )
