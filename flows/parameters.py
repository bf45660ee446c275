"""The flow's parameters as types: title, description and bounds of each field of the form in Prefect's UI.

Prefect overwrites a field's own title and description, but keeps what the JSON schema adds to it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from profiles.load import profile_names


def _shown(title: str, description: str = "", **bounds: Any) -> Any:
    extra: dict[str, Any] = {"title": title} | ({"description": description} if description else {})
    return Field(json_schema_extra=extra, **bounds)


def _one_of(names: list[str], other: str, pattern: str) -> WithJsonSchema:
    """A choice from a list that leaves room for a value of the user's own."""
    return WithJsonSchema(
        {
            "anyOf": [
                {"title": "Shipped", "type": "string", "enum": names},
                {"title": other, "type": "string", "pattern": pattern},
            ]
        }
    )


DEFAULT_PROFILE = "cpu-demo"

_Positive = Annotated[int, Field(ge=1)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9{][A-Za-z0-9_.{}:%-]*$", max_length=64)]
_MOVES = "; {date} is the day of the flow run, {date:%Y%m%d} the day in a format of its own"

Profile = Annotated[
    str,
    _one_of(profile_names(), "TOML file", r"\.toml$"),
    _shown("Profile", "Hardware target and engine settings: a shipped profile, or the path of a TOML file"),
]
Model = Annotated[
    str | None,
    _shown(
        "Model",
        'A directory, a hub id or "demo"; a pattern such as checkpoints/* takes the newest complete model; empty takes '
        f"the profile's{_MOVES}",
    ),
]
Dataset = Annotated[
    str,
    _shown(
        "Dataset",
        f'"demo", .jsonl/.json/.csv/.parquet files or a directory, here or at a URL, or a hub id{_MOVES}',
        min_length=1,
    ),
]
DatasetConfig = Annotated[str | None, _shown("Dataset configuration", "Of a hub id; openai/gsm8k has main")]
Split = Annotated[str, _shown("Split")]
QuestionColumn = Annotated[str, _shown("Question column", min_length=1)]
AnswerColumn = Annotated[str, _shown("Answer column", min_length=1)]
IdColumn = Annotated[str | None, _shown("Id column", "Column of unique ids; empty makes ids from split and row number")]
Questions = Annotated[_Positive | None, _shown("Questions", "Take so many from the start; empty takes all")]
Filters = Annotated[
    list[str] | None,
    _shown(
        "Filters", "Only rows that pass all: COLUMN OPERATOR VALUE, with = != < <= > >= or ~ !~ (regular expression)"
    ),
]
ShuffleSeed = Annotated[
    Annotated[int, Field(ge=0)] | None,
    _shown("Shuffle seed", "Take questions in a random order; empty keeps the order"),
]
Streaming = Annotated[bool, _shown("Streaming", "Read a hub dataset row by row, without downloading all of it")]
Arms = Annotated[str | None, _shown("Arms", "A shipped arm set, or the path of a TOML file; empty takes math8")]
SamplesPerArm = Annotated[int, _shown("Samples per arm", "Completions per question and arm", ge=1)]
QuestionBatchSize = Annotated[
    _Positive | None, _shown("Question batch size", "Questions in flight per replica; empty takes the profile's")
]
Temperature = Annotated[float, _shown("Temperature", "0 is greedy", ge=0, le=5)]
TopP = Annotated[float, _shown("Top p", "Nucleus sampling mass", gt=0, le=1)]
MaxTokens = Annotated[int, _shown("Completion tokens at most", ge=1)]
Seed = Annotated[
    Annotated[int, Field(ge=0)] | Literal["{date}"],
    _shown("Seed", "Every request's own seed is derived from it; {date} is the day of the flow run as a number"),
]
Stop = Annotated[list[str] | None, _shown("Stop strings", "A completion ends before any of them")]
PromptFormat = Annotated[
    Literal["chat", "plain"] | None,
    _shown(
        "Prompt format", "chat takes the model's chat template, plain gives text to complete; empty: each arm's own"
    ),
]
PromptTemplate = Annotated[
    str | None, _shown("Prompt template", "Plain prompts: text with {question} in it, or a .txt file of it")
]
ChatTemplateKwargs = Annotated[
    dict[str, Any] | str | None, _shown("Chat template arguments", 'JSON, such as {"enable_thinking": false}')
]
TopLogprobs = Annotated[
    Annotated[int, Field(ge=0, le=20)] | None,
    _shown("Top logprobs", "Most likely tokens stored per position; empty stores 5 with or for a baseline, else none"),
]
ShardSize = Annotated[_Positive | None, _shown("Questions per shard", "Empty takes it from the dataset's size")]
Scorer = Annotated[str, _shown("Scorer", "gsm8k, math or package.module:function", min_length=1)]
Lengths = Annotated[
    str | None, _shown("Lengths", "For benchmarks: draw completion lengths, lognormal[:MEDIAN[:SIGMA]]")
]
Baseline = Annotated[
    str | None, _shown("Baseline", 'Compare with this run: its id, directory or URL, or "auto" to generate one')
]
Require = Annotated[
    Literal["bitwise", "numerical", "statistical"],
    _shown("Equivalence required", "The weakest verdict with which the run does not fail"),
]
Epsilon = Annotated[
    float,
    _shown(
        "Equivalence margin",
        "Statistical equivalence: largest difference of the mean reward that counts as none",
        gt=0,
        lt=1,
    ),
]
Upload = Annotated[str | None, _shown("Upload to", f"s3://bucket/prefix or a directory; empty uploads nothing{_MOVES}")]
AwsCredentialsBlock = Annotated[
    Annotated[str, Field(pattern=r"^((aws-credentials|secret)/)?[a-z0-9-]+$")] | None,
    _shown(
        "AWS credentials block",
        "Name of an AWS Credentials block, or secret/NAME, for s3:// URLs; empty takes the environment's or a role's",
    ),
]
SkipFinished = Annotated[
    bool, _shown("Skip if finished", "End at once, as Completed, when a run of this fingerprint is finished")
]
Nodes = Annotated[
    int,
    _shown(
        "Nodes",
        "More than one: so many flow runs of generate-shards are started, each for one worker of the nodes' pool",
        ge=1,
        le=64,
    ),
]
Shared = Annotated[
    str | None,
    _shown(
        "Shared storage",
        "With several nodes: a directory or s3://bucket/prefix that all nodes reach, for work under way",
    ),
]
RunsDir = Annotated[str, _shown("Runs directory", "Under a worker, relative to its HARVEST_HOME", min_length=1)]
Name = Annotated[_Name | None, _shown("Name", f"Readable start of the run id{_MOVES}")]

RunId = Annotated[
    str,
    _shown("Run", "Id of a run that is being collected over several nodes", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
]
SharedPlace = Annotated[str, _shown("Shared storage", "Where the collection keeps its ledger and shards", min_length=1)]
Attempt = Annotated[
    str | None,
    _shown(
        "Attempt",
        "Flow run and attempt that collect; empty works on whatever happens to them",
        pattern=r"^[0-9a-f-]{36}-\d+$",
    ),
]
Place = Annotated[int, _shown("Place", "Where in the order of shards this node begins, counted in nodes", ge=0)]
LeaseSeconds = Annotated[
    int, _shown("Lease, seconds", "A claim that is not renewed for so long is another node's to take", ge=2, le=3600)
]
Scratch = Annotated[
    str,
    _shown("Scratch directory", "On a disk of the node; under a worker, relative to its HARVEST_HOME", min_length=1),
]
