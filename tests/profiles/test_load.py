"""Shipped profiles and arms load, and wrong ones are refused in one line."""

from pathlib import Path

import pytest

from profiles import engine_settings, schema
from profiles.load import SettingsError, load_arms, load_profile, profile_names
from profiles.schema import AUTO, Profile


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.baseline is None or load_profile(profile.baseline).generation == "loop"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "h100x8",
            {
                "tensor_parallel_size": 8,
                "max_model_len": 2048,
                "dtype": "bfloat16",
                "gpu_memory_utilization": 0.95,
                "enforce_eager": False,
                "enable_chunked_prefill": True,
                "max_num_seqs": None,  # 256, and vLLM's own limit with --question-batch-size auto
            },
        ),
        ("h100x8-baseline", {"max_model_len": 8192, "enforce_eager": True, "gpu_memory_utilization": 0.90}),
        ("h100x4", {"tensor_parallel_size": 4}),
        ("h100x2", {"tensor_parallel_size": 2}),
        ("h100x8-moe", {"tensor_parallel_size": 8, "vllm": {"enable_expert_parallel": True}}),
        ("a100-80gb-x8", {"gpu_memory_utilization": 0.93}),
        ("a100-40gb-x8", {"gpu_memory_utilization": 0.90, "enforce_eager": True}),
        ("h100x8-replicas", {"tensor_parallel_size": 1}),
        (
            "h100x8-strict",
            {"batch_invariant": True, "attention_backend": "TRITON_ATTN", "enable_prefix_caching": False},
        ),
        (
            "h200x1-strict",
            {"batch_invariant": True, "attention_backend": "TRITON_ATTN", "enable_prefix_caching": False},
        ),
    ],
)
def test_engine_settings_of_the_shipped_profiles(name: str, expected: dict[str, object]) -> None:
    settings = load_profile(name).engine.model_dump()
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "questions", "replicas"),
    [
        ("h100x8", 16, 1),
        ("h100x8-baseline", 1, 1),
        ("h100x8-replicas", AUTO, 8),
        ("h100x8-strict", 16, 1),
        ("h100x4", 24, 1),
        ("h100x2", AUTO, 1),
        ("h100x8-moe", AUTO, 1),
        ("a100-80gb-x8", 12, 1),
        ("a100-40gb-x8", 8, 1),
        ("h200x1", AUTO, 1),
        ("h200x1-strict", 32, 1),
    ],
)
def test_batch_of_the_shipped_profiles(name: str, questions: int | str, replicas: int) -> None:
    profile = load_profile(name)
    assert (profile.question_batch_size, profile.replicas) == (questions, replicas)


@pytest.mark.parametrize(
    ("replicas", "per_gpu", "size", "stages", "nodes", "device", "gpus"),
    [
        (1, 1, 1, 1, 1, "cuda", 1),
        (2, 2, 1, 1, 1, "cuda", 1),
        (6, 2, 1, 1, 1, "cuda", 3),
        (2, 1, 4, 1, 1, "cuda", 8),
        (2, 1, 1, 2, 1, "cuda", 4),
        (1, 1, 4, 2, 1, "cuda", 8),
        (1, 1, 2, 1, 2, "cuda", 1),
        (1, 1, 8, 3, 3, "cuda", 8),
        (1, 1, 8, 2, 4, "cuda", 4),
        (3, 1, 1, 1, 1, "cpu", 0),
    ],
)
def test_gpus_that_a_profile_takes_on_a_node(
    replicas: int, per_gpu: int, size: int, stages: int, nodes: int, device: str, gpus: int
) -> None:
    engine = {"tensor_parallel_size": size, "pipeline_parallel_size": stages, "nodes_per_replica": nodes}
    settings = {"replicas": replicas, "replicas_per_gpu": per_gpu, "engine": engine}
    assert Profile.model_validate({"name": "x", **settings, "expect": {"device": device}}).gpus == gpus


@pytest.mark.parametrize("name", [name for name in profile_names() if name.startswith("h100")])
def test_targets_of_the_h100_profiles(name: str) -> None:
    targets = load_profile(name).targets
    assert targets.gpu_memory_gib == (70, 76)
    assert targets.gpu_utilization_percent == (90, 98)
    assert targets.max_temperature_c == 85


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nbatch = 3', "unknown key batch; allowed here: any_replicas, baseline"),
        ('name = "x"\n[engine]\nmax_seqs = 3', "unknown key engine.max_seqs"),
        ('name = "x"\n[engine]\nswap_space = 4', "swap_space is no longer an engine argument"),
        (
            'name = "x"\nquestion_batch_size = 0',
            'question_batch_size is 0: give a whole number from 1 to 65,536, or "auto"',
        ),
        ('name = "x"\nreplicas = true', "replicas is True: it cannot be true or false"),
        ('\ufeffname = "x"\nreplicas = 0', "replicas is 0"),
        ('name = "x"\nquestion_batch_size = "all"', "question_batch_size is 'all'"),
        (
            'name = "x"\nquestion_batch_size = "auto"\ngeneration = "loop"',
            "waits for a whole batch, which needs a size",
        ),
        ('name = "x"\n[engine]\ncudagraph_capture_sizes = []', "cudagraph_capture_sizes is"),
        (
            'name = "x"\n[engine]\ncudagraph_capture_sizes = [8]\nmax_cudagraph_capture_size = 8',
            "give cudagraph_capture_sizes or max_cudagraph_capture_size, not both",
        ),
        ('name = "x"\n[engine]\nenable_chunked_prefill = false\nmax_num_batched_tokens = 64', "a prompt must fit"),
        (
            'name = "x"\n[engine]\ncore_process = false\ntensor_parallel_size = 2',
            "core_process is false, but tensor_parallel_size is 2: an engine of several GPUs has its core in a process "
            "of its own. Leave core_process out",
        ),
        ('name = "x"\n[engine]\ncore_process = "yes please"', "core_process is 'yes please'"),
        ('name = "x"\nreplicas = 4\n[expect]\ngpu_count = 2', "need 4 GPUs"),
        (
            'name = "x"\nreplicas = 8\nreplicas_per_gpu = 2\n[expect]\ngpu_count = 2',
            "8 replicas of tensor_parallel_size 1, 2 on each GPU, need 4 GPUs",
        ),
        ('name = "x"\nreplicas = 9\nreplicas_per_gpu = 9', "replicas_per_gpu is 9"),
        (
            'name = "x"\nreplicas_per_gpu = 2',
            "replicas is 1, the engines on all GPUs together, and replicas_per_gpu 2 does not divide it. "
            "Set replicas to 2 for one GPU, 4 for two",
        ),
        (
            'name = "x"\nreplicas = 2\nreplicas_per_gpu = 2\n[engine]\ntensor_parallel_size = 4',
            'replicas_per_gpu is 2, with tensor_parallel_size 4 and expect.device "cuda". Engines share a GPU only '
            'with tensor_parallel_size 1 and device "cuda"',
        ),
        ('name = "x"\nreplicas = 2\nreplicas_per_gpu = 2\n[expect]\ndevice = "cpu"', "share a GPU only with"),
        (
            'name = "x"\nreplicas = 2\nreplicas_per_gpu = 2\n[engine]\npipeline_parallel_size = 2',
            "replicas_per_gpu is 2, with tensor_parallel_size 1 x pipeline_parallel_size 2",
        ),
        (
            'name = "x"\n[engine]\ncore_process = false\npipeline_parallel_size = 2',
            "core_process is false, but pipeline_parallel_size is 2",
        ),
        (
            'name = "x"\n[engine]\npipeline_parallel_size = 2\n[expect]\ngpu_count = 1',
            "1 replicas of tensor_parallel_size 1 x pipeline_parallel_size 2 need 2 GPUs",
        ),
        (
            'name = "x"\n[engine]\nnodes_per_replica = 2',
            "nodes_per_replica is 2, which does not divide the 1 GPU of tensor_parallel_size 1 x "
            "pipeline_parallel_size 1: each node has",
        ),
        (
            'name = "x"\n[engine]\nnodes_per_replica = 4\ntensor_parallel_size = 2\npipeline_parallel_size = 3',
            "does not divide the 6 GPUs of tensor_parallel_size 2 x pipeline_parallel_size 3",
        ),
        (
            'name = "x"\n[engine]\nnodes_per_replica = 2\ntensor_parallel_size = 2\n[expect]\ndevice = "cpu"',
            'nodes_per_replica is 2, but expect.device is "cpu": vLLM joins GPUs only',
        ),
        (
            'name = "x"\nreplicas = 2\n[engine]\nnodes_per_replica = 2\ntensor_parallel_size = 2',
            "replicas is 2, and nodes_per_replica 2: a replica over several nodes is the only one on them",
        ),
        (
            'name = "x"\nreplicas = 2\nreplicas_per_gpu = 2\n[engine]\nnodes_per_replica = 2\ntensor_parallel_size = 2',
            "replicas is 2, and nodes_per_replica 2",
        ),
        (
            'name = "x"\n[engine]\ncore_process = false\nnodes_per_replica = 2\ntensor_parallel_size = 2',
            "core_process is false, but tensor_parallel_size is 2",
        ),
        ('name = "x"\n[engine]\nnodes_per_replica = 65', "nodes_per_replica is 65"),
        (
            'name = "x"\n[engine]\nnodes_per_replica = 2\ntensor_parallel_size = 8\n[expect]\ngpu_count = 2',
            "1 replicas of tensor_parallel_size 8 over 2 nodes need 4 GPUs on each, but expect.gpu_count is 2",
        ),
        ("question_batch_size = 4", "name is missing"),
        ('name = "auto"', '"auto" means the profile chosen from the node'),
        ("name = ", "is not valid TOML"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")) as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_every_setting_says_what_it_is() -> None:
    modules = (schema.__name__, engine_settings.__name__)
    kinds = [kind for kind in schema.Settings.__subclasses__() if kind.__module__ in modules]
    fields = {f"{kind.__name__}.{name}": field for kind in kinds for name, field in kind.model_fields.items()}
    assert "EngineSettings.dtype" in fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_the_default_arms_are_eight() -> None:
    arms = load_arms(None).arms
    assert len({arm.id for arm in arms}) == 8
    assert all(arm.system_prompt for arm in arms)


def test_own_arms_may_have_few_shot_turns(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[arms]]\nid = "plain"\nsystem_prompt = ""\n'
        '[[arms]]\nid = "shown"\nsystem_prompt = "Be brief."\nfew_shot = [{ user = "1 + 1?", assistant = "#### 2" }]\n'
    )
    plain, shown = load_arms(str(path)).arms
    assert (plain.id, plain.few_shot, shown.few_shot[0].assistant) == ("plain", (), "#### 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[arms]]\nid = "a"\nsystem_prompt = ""\n[[arms]]\nid = "a"\nsystem_prompt = ""',
            "'a' appears more than once",
        ),
        ('[[arms]]\nid = "a b"\nsystem_prompt = ""', "arms.0.id"),
        ('[[arms]]\nid = "a"', "system_prompt is missing"),
        (
            '[[arms]]\nid = "a"\nsystem_prompt = ""\ncolour = 1',
            r"toml: unknown key arms\.0\.colour; allowed here: chat_template_kwargs, .*, id, .*, template$",
        ),
        ('[[arms]]\nid = "a"\nsystm_prompt = ""', r"arms\.0\.systm_prompt\. Did you mean system_prompt\?$"),
        ("arms = []", "at least 1"),
    ],
)
def test_wrong_arms_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_arms(str(path))


@pytest.mark.parametrize(
    "text", ["a" + ".a" * 100_000 + " = 1", "[a" + " . 'b'" * 100_000 + "]", "a = " + "[" * 10_000]
)
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    for load in (load_arms, load_profile):
        with pytest.raises(SettingsError, match="is nested too deeply"):
            load(str(path))
