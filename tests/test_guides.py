"""The guides are true: what a reader can paste runs here or at least parses, and what they name exists.

A fenced ``sh`` or ``python`` block runs as it stands, in one folder that all blocks share, with the id of a small run
in place of ``RUN_ID``. ``CANNOT_RUN`` lists what cannot run here, with the reason. The command line's parser reads that
too.
"""

import fnmatch
import functools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flows.commands.cli import harvest, parse
from profiles.load import profile_names
from tasks.node.engine_caches import CACHE_VARIABLE
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA
from tests.support.harvest_command import ROOT, environment

GUIDES = ("README.md", *(f"{folder}/README.md" for folder in ("flows", "tasks", "profiles", "infra", "tests")))
MOST_LINES = 150
"""Of the first guide: what does not fit belongs to a folder's."""
CANNOT_RUN = {
    r"^make ": "installs packages, or runs everything",
    r"Qwen/|openai/|--profile h\d": "needs a GPU, and a model or a dataset of the hub",
    r"harvest (deploy|worker|serve|automations)": "needs a Prefect server that stays",
    r"^prefect ": "needs a Prefect server that stays",
    r"^(install|systemctl|docker|kubectl) ": "needs root or a container engine",
    r"^(ssh|sbatch|\.venv/bin/ray) ": "needs other machines",
    r"uv pip compile|uv tool|\.whl": "needs a package index",
    r"gpu-bench/": "needs a GPU",
    r"harvest bench|-m tests\.bench": "measures for minutes",
    r"-m pytest": "would run tests within a test",
}
FIRST = "harvest run --questions 2 --max-tokens 8"
"""The command that makes the small run; it stands in a block of the first guide."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_PATH = re.compile(
    r"(?:flows|tasks|profiles|infra|tests)/[\w.*/-]*|(?:[\w-]+/)*[\w-]+\.(?:py|sh|toml|yaml|service|txt)"
)
_VARIABLE = re.compile(r"\"((?:HARVEST|PREFECT|VLLM|AWS)_[A-Z0-9_]+)\"")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a guide; ``number`` counts within the guide."""

    guide: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.guide}-{self.number}-{self.language}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without comments and the texts given to ``cat``."""
        script = re.sub(r"<<'END'\n.*?^END$", "", self.text.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
        return [words for line in script.splitlines() if (words := shlex.split(line, comments=True))]

    @property
    def obstacle(self) -> str | None:
        """Why the block cannot run here, if it cannot."""
        lines = [shlex.join(words) for words in self.commands] if self.language == "sh" else [self.text]
        return next(
            (reason for line in lines for pattern, reason in CANNOT_RUN.items() if re.search(pattern, line)), None
        )


@functools.cache
def read(guide: str) -> str:
    return (ROOT / guide).read_text(encoding="utf-8")


def blocks(guide: str) -> list[Block]:
    found = enumerate(_FENCE.finditer(read(guide)), start=1)
    return [Block(guide=guide, number=number, language=match[1], text=match[2]) for number, match in found]


def prose(guide: str) -> str:
    return _FENCE.sub("", read(guide))


ALL_BLOCKS = [block for guide in GUIDES for block in blocks(guide)]
SHELL = [block for block in ALL_BLOCKS if block.language == "sh"]
PASTED = [block for block in ALL_BLOCKS if block.language in ("sh", "python") and block.obstacle is None]


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A folder with the small run in ``runs/``, and what its command printed."""

    folder: Path
    run_id: str
    first: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("guides")
    (folder / ".venv").symlink_to(sys.prefix)
    run_id = plan_run(config_from_parameters({"questions": 2, "max_tokens": 8}), folder / "runs").run_id
    [block] = [block for block in PASTED if FIRST in block.text]
    return Workplace(folder=folder, run_id=run_id, first=paste(block, folder, run_id))


def paste(block: Block, folder: Path, run_id: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    text = block.text.replace("RUN_ID", run_id)
    command = ["bash", "-euc", text] if block.language == "sh" else [sys.executable, "-c", text]
    own = {name: value for name, value in environment().items() if not name.startswith(("PREFECT_", "HARVEST_"))}
    own |= {CACHE_VARIABLE: os.environ[CACHE_VARIABLE], **variables}
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("block", PASTED, ids=str)
def test_what_a_reader_pastes_runs(block: Block, workplace: Workplace, prefect_api: str) -> None:
    """The first run has a server of its own, as a reader's has; another one in each block would show no more."""
    shared = {"PREFECT_API_URL": prefect_api}
    done = workplace.first if FIRST in block.text else paste(block, workplace.folder, workplace.run_id, **shared)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_guide_has_something_to_paste() -> None:
    assert {block.guide for block in ALL_BLOCKS if block.language in ("sh", "python")} == set(GUIDES)
    assert {block.guide for block in PASTED} >= {
        "README.md",
        "flows/README.md",
        "tasks/README.md",
        "profiles/README.md",
    }


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_parse(block: Block) -> None:
    for words in block.commands:
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if Path(words[0]).name == "harvest":
            parse(words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0] == ".venv/bin/python":
            assert_module_exists(words[2])
            assert all((ROOT / word).exists() for word in words[3:] if "/" in word), words
        elif words[0].startswith("infra/"):
            assert os.access(ROOT / words[0], os.X_OK), words


def assert_module_exists(name: str) -> None:
    path = ROOT / name.replace(".", "/")
    assert name == "pytest" or path.is_dir() or path.with_suffix(".py").is_file(), name


@functools.cache
def options() -> dict[str, set[str]]:
    """Options of every subcommand."""
    return {
        name: {opt for param in command.load().params for opt in param.opts}
        for name, command in harvest.commands.items()
    }


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_and_options_in_the_text_exist(guide: str) -> None:
    for span in _SPAN.findall(prose(guide)):
        given = set(re.findall(r"(?<!\S)--[a-z-]+", span))
        if match := re.match(r"(?:\.venv/bin/)?harvest ([a-z]+)", span):
            assert given <= options()[match[1]], span
        elif match := re.search(r"python -m (\S+)", span):
            assert_module_exists(match[1])
        elif span.startswith("--"):
            assert given <= set.union(*options().values()), span


@pytest.mark.parametrize("guide", GUIDES)
def test_paths_in_the_text_and_in_trees_exist(guide: str) -> None:
    texts = _SPAN.findall(prose(guide)) + [block.text for block in blocks(guide) if not block.language]
    assert not [path for text in texts for path in _paths(text) if not _exists(path)]


def _paths(text: str) -> list[str]:
    # not what begins within a longer path, a URL or a pattern; names that begin with "my" are the reader's own
    found = re.finditer(rf"(?<![\w./'@{{}}<-])(?!my)(?:{_PATH.pattern})(?![\w'])", text)
    return [match[0].rstrip(".") for match in found]


def _exists(path: str) -> bool:
    """Whether ``path`` is a file or folder of the checkout; its beginning may be left out."""
    return any(fnmatch.fnmatch(known, pattern) for known in _files() for pattern in (path, f"*/{path}", f"{path}*"))


@functools.cache
def _files() -> list[str]:
    folders = [ROOT / guide.rpartition("/")[0] for guide in GUIDES if "/" in guide]
    paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]
    return [path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts]


@pytest.mark.parametrize("guide", GUIDES)
def test_names_in_files_exist(guide: str) -> None:
    named = re.findall(r"`(\w+)`\sin\s`([\w/]+\.py)`", prose(guide))
    assert not [(name, path) for name, path in named if not re.search(rf"\b{name}\b", read(path))]


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    for target, anchor in _LINK.findall(prose(guide)):
        file = ((ROOT / guide).parent / target).resolve() if target else ROOT / guide
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_the_first_guide_is_short() -> None:
    assert len(read("README.md").splitlines()) <= MOST_LINES


def _modules(folder: str) -> set[str]:
    return {path.name for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"}


@pytest.mark.parametrize("folder", ["flows", "tasks", "tests/support"])
def test_the_map_has_every_module(folder: str) -> None:
    named = set(re.findall(r"\w+\.py", read(f"{folder.partition('/')[0]}/README.md")))
    assert not _modules(folder) - named


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "tasks").iterdir() if path.is_dir()))
def test_modules_stand_in_their_rooms_on_the_map(room: str) -> None:
    listed = re.search(rf"^{room}/\n((?:  .*\n)+)", read("tasks/README.md"), re.MULTILINE)
    if room in ("__pycache__", "interpreter"):
        return
    assert listed is not None
    assert set(re.findall(r"^  (\w+\.py)", listed[1], re.MULTILINE)) == _modules(f"tasks/{room}")


def test_every_command_profile_deployment_and_column_is_told() -> None:
    infra = {name: yaml.safe_load((ROOT / "infra" / f"{name}.yaml").read_text()) for name in ("prefect", "automations")}
    told = {
        "README.md": [f"harvest {name}" for name in options()],
        "profiles/README.md": profile_names(),
        "flows/README.md": [item["name"] for kind in ("prefect", "automations") for item in _named(infra[kind], kind)],
        "tasks/README.md": [*ROLLOUT_SCHEMA, *SCORE_SCHEMA],
    }
    for guide, names in told.items():
        assert not [name for name in names if f"`{name}" not in prose(guide)]


def _named(content: dict[str, list[dict[str, str]]], kind: str) -> list[dict[str, str]]:
    return content["deployments" if kind == "prefect" else kind]


@pytest.mark.slow
def test_every_file_of_a_run_is_told(workplace: Workplace) -> None:
    spans = " ".join(_SPAN.findall(prose("tasks/README.md")))
    run = workplace.folder / "runs" / workplace.run_id
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix().removeprefix("state/")
        name = re.sub(r"^scores@[^/]+", "scores@SCORER-VERSION", name)
        # any further file of a folder is told with the folder
        assert name in spans or f"{name.partition('/')[0]}/" in spans, name


def test_every_environment_variable_of_the_product_is_in_the_table() -> None:
    table = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", read("tasks/README.md").partition("## Environment variables")[2]))
    sources = "".join(
        path.read_text() for folder in ("flows", "tasks", "profiles") for path in ROOT.glob(f"{folder}/**/*.py")
    )
    used = set(re.findall(r"\bHARVEST_[A-Z_]+\b", sources)) | set(_VARIABLE.findall(sources))
    assert used <= table
    assert {name for name in table if name.startswith("HARVEST_")} <= used
