from collections.abc import Mapping
from pathlib import Path

import pytest

from profiles.engine_settings import EngineSettings
from tasks.node.engine_caches import (
    StartKind,
    StartWatch,
    cache_root,
    cached_environment,
    check_engine_caches,
    chosen_caches,
    coldest,
)


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"VLLM_CACHE_ROOT": "/a/vllm", "XDG_CACHE_HOME": "/x"}, "/a/vllm"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/vllm"),
        ({}, str(Path.home() / ".cache/vllm")),
        ({"VLLM_CACHE_ROOT": "", "XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/vllm")),
        ({"VLLM_CACHE_ROOT": "~/own"}, str(Path.home() / "own")),
    ],
)
def test_the_cache_is_where_vllm_looks_for_it(environment: Mapping[str, str], root: str) -> None:
    assert cache_root(environment) == Path(root)


def test_without_the_variable_every_library_keeps_its_own_place(tmp_path: Path) -> None:
    assert chosen_caches({"XDG_CACHE_HOME": str(tmp_path)}).variables == {}


def test_one_variable_moves_all_caches_and_a_users_own_place_wins(tmp_path: Path) -> None:
    caches = chosen_caches({"HARVEST_CACHE_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "mine")})
    assert caches.root == tmp_path / "vllm"
    assert caches.variables == {
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path / "flashinfer"),
        "CUDA_CACHE_PATH": str(tmp_path / "cuda"),
    }
    assert not caches.problem
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
@pytest.mark.parametrize("variable", ["HARVEST_CACHE_DIR", "VLLM_CACHE_ROOT"])
def test_a_cache_that_cannot_be_written_is_replaced_and_told(tmp_path: Path, place: str, variable: str) -> None:
    (tmp_path / "file").touch()
    environment = {variable: str(tmp_path / place)}
    check = check_engine_caches(environment)
    assert check.status == "warn"
    assert str(tmp_path / place) in check.value
    assert "HARVEST_CACHE_DIR" in check.remedy
    made = cached_environment(environment, tmp_path / "spare")
    assert made["VLLM_CACHE_ROOT"] == str(tmp_path / "spare/vllm")
    assert (tmp_path / "spare/cuda").is_dir()


@pytest.mark.parametrize(
    ("variables", "broken"),
    [
        ({"HARVEST_CACHE_DIR": "base"}, "base/triton"),
        ({"HARVEST_CACHE_DIR": "base", "VLLM_CACHE_ROOT": "own"}, "base"),
        ({"HARVEST_CACHE_DIR": "base", "TRITON_CACHE_DIR": "mine"}, "mine"),
        ({"FLASHINFER_WORKSPACE_BASE": "mine", "XDG_CACHE_HOME": "x"}, "mine"),
    ],
)
def test_no_librarys_cache_is_used_when_one_of_them_cannot_be_written(
    tmp_path: Path, variables: Mapping[str, str], broken: str
) -> None:
    (tmp_path / broken).parent.mkdir(exist_ok=True)
    (tmp_path / broken).touch()
    environment = {name: str(tmp_path / place) for name, place in variables.items()}
    assert str(tmp_path / broken) in check_engine_caches(environment).value
    made = cached_environment(environment, tmp_path / "spare")
    assert made["TRITON_CACHE_DIR"] == str(tmp_path / "spare/triton")
    assert Path(made["TRITON_CACHE_DIR"]).is_dir()


def test_a_cache_that_can_be_written_passes(tmp_path: Path) -> None:
    check = check_engine_caches({"HARVEST_CACHE_DIR": str(tmp_path / "new")})
    assert (check.status, check.value) == ("pass", f"{tmp_path / 'new/vllm'} takes writes")


ENTRY = "torch_compile_cache/torch_aot_compile/abc/rank_0_0/model"


@pytest.mark.parametrize(
    ("enforce_eager", "before", "written", "disabled", "kind"),
    [
        (True, (), (), "0", "not compiled"),
        (False, (), (ENTRY,), "0", "cold"),
        (False, (ENTRY,), (), "0", "warm"),
        (False, (ENTRY,), ("modelinfos/demo.json", "torch_compile_cache/abc/inductor_cache/x.py"), "0", "warm"),
        (False, (ENTRY,), (ENTRY,), "0", "cold"),
        (False, (ENTRY,), ("torch_compile_cache/def/rank_0_0/backbone/vllm_compile_cache.py",), "0", "cold"),
        (False, (), (), "0", "not compiled"),
        (False, (ENTRY,), (), "1", "cold"),
    ],
)
def test_a_start_is_cold_when_graphs_were_written(
    tmp_path: Path, enforce_eager: bool, before: tuple[str, ...], written: tuple[str, ...], disabled: str, kind: str
) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}.new").write_text(text)
        (tmp_path / f"{path}.new").rename(tmp_path / path)

    for path in before:
        write(path, "before")
    environment = {"VLLM_CACHE_ROOT": str(tmp_path), "VLLM_DISABLE_COMPILE_CACHE": disabled}
    watch = StartWatch(EngineSettings(enforce_eager=enforce_eager), environment)
    for path in written:
        write(path, "after")
    assert watch.kind() == kind


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((), None),
        ((None,), None),
        (("warm", "cold", "warm"), "cold"),
        (("warm", None), "warm"),
        (("not compiled",), "not compiled"),
    ],
)
def test_the_coldest_start_stands_for_all(kinds: tuple[StartKind | None, ...], expected: StartKind | None) -> None:
    assert coldest(kinds) == expected
