"""A drafted profile has every key of the settings with what is known of it. It loads, also with every default set."""

import re
from pathlib import Path

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import load_profile
from profiles.profile_draft import profile_draft
from profiles.schema import ExpectedNode, Profile, TelemetryTargets

_TABLES = {"": Profile, "engine": EngineSettings, "expect": ExpectedNode, "targets": TelemetryTargets}


def keys(draft: str) -> set[tuple[str, str]]:
    """Every key of the draft, set or not, with its table."""
    table, found = "", set()
    for line in draft.splitlines():
        if heading := re.fullmatch(r"\[(.+)\]", line):
            table = heading[1]
            found.add(("", table) if "." not in table else tuple(table.split(".")))
        elif key := re.match(r"#?(\w+) =", line):
            found.add((table, key[1]))
    return found


def test_every_setting_stands_in_it_with_its_meaning() -> None:
    draft = profile_draft(load_profile("cpu-demo"))
    assert keys(draft) == {(table, key) for table, kind in _TABLES.items() for key in kind.model_fields}
    assert max(map(len, draft.splitlines())) <= 120
    words = " ".join(draft.replace("\n#", "").split())
    for kind in _TABLES.values():
        for name, field in kind.model_fields.items():
            assert " ".join((field.description or "").replace("``", "`").split()) in words, name


@pytest.mark.parametrize(
    "lines",
    [
        "# Seconds that an engine may take to load.\n"
        "# a number above 0, at most 10000000; default: 1800.0\n#start_timeout_s = 1800.0",
        '# a whole number from 1 to 65536 or "auto"; default: 16\n#question_batch_size = 16',
        '# "auto" or "bfloat16" or "float16" or "float32"; default: "bfloat16"\ndtype = "float32"',
        "# a list of 2, each a number from 0 to 100; left out by default\n#gpu_utilization_percent =\n",
        "# a list, each a whole number from 1 to 65536; left out by default\n#cudagraph_capture_sizes =\n",
        '# a text of the form ^[A-Za-z0-9][A-Za-z0-9_.-]*$; must be given\nname = "cpu-demo"',
    ],
)
def test_a_key_has_what_it_may_be_and_its_default_above_it(lines: str) -> None:
    assert lines in profile_draft(load_profile("cpu-demo"))


@pytest.mark.parametrize("name", ["cpu-demo", "h100x8", "h100x8-moe", "h200x1-strict"])
def test_it_loads_as_the_profile_also_with_every_default_stated(tmp_path: Path, name: str) -> None:
    file = tmp_path / "draft.toml"
    draft = profile_draft(load_profile(name), ["chosen here\nfor 8 x H100"])
    file.write_text(draft, encoding="utf-8")
    assert load_profile(str(file)) == load_profile(name)
    file.write_text(re.sub(r"^#(\w+ = .)", r"\1", draft, flags=re.MULTILINE), encoding="utf-8")
    assert load_profile(str(file)) == load_profile(name)
