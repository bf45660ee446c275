"""Puts vLLM behind the engine protocol, request by request and in whole batches.

Only this module, ``vllm_requests`` and ``weight_reload``, which vLLM's workers run, import vllm.

Functions import vllm when they need it: the import takes seconds, and the parent of the replicas does not need it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, ReloadRefused
from tasks.generation.engine import EngineOutput, EngineRequest, EngineSpec, EngineStats
from tasks.generation.partial_completion import PartialCompletion
from tasks.generation.ray_group import placement_group, private_variables
from tasks.generation.vllm_requests import (
    engine_arguments,
    lora_request,
    output_of,
    output_of_partial,
    sampling_params,
)
from tasks.generation.weight_reload import EXTENSION
from tasks.user_code import text_of


def import_vllm() -> None:
    """Import what an engine needs, which uses no GPU and starts no engine."""
    import vllm.engine.arg_utils
    import vllm.v1.engine.core
    import vllm.v1.engine.llm_engine  # noqa: F401


def _join_group(config: Any) -> None:
    """Have vLLM's Ray executor use the placement group of this process, and send the other nodes nothing private."""
    from vllm.ray.ray_env import RAY_NON_CARRY_OVER_ENV_VARS

    config.parallel_config.placement_group = placement_group()
    # vLLM reads this set when it starts its workers, in the engine core, which is forked from here
    RAY_NON_CARRY_OVER_ENV_VARS.update(private_variables(os.environ))


@dataclass
class VllmEngine:
    """vLLM's LLMEngine, fed request by request."""

    spec: EngineSpec
    stats: EngineStats = field(default_factory=EngineStats)
    _partial: dict[str, PartialCompletion] = field(default_factory=dict)
    _loaded: list[str] | None = None
    """Of each worker, a digest of the tensors that it loads; None before the first other weights."""

    def __post_init__(self) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_vllm_config(self.configure())
        # here a failure is that of a start, and not of the requests in flight
        for adapter in self.spec.lora.adapters if self.spec.lora else ():
            try:
                self._engine.add_lora(lora_request(adapter))
            except Exception as error:
                raise ConfigError(
                    f"vLLM refuses the adapter {adapter.path}: {error}. Train it on this model"
                ) from error

    def configure(self) -> Any:
        """Return vLLM's whole configuration of the engine."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        # vLLM's defaults for offline batches, as in its LLM class
        config = EngineArgs(**self.arguments()).create_engine_config(UsageContext.LLM_CLASS)
        if self.spec.settings.nodes_per_replica > 1:
            _join_group(config)
        return config

    def arguments(self) -> dict[str, Any]:
        # an engine without graphs need not say which steps ran in one
        graphs = {"cudagraph_metrics": not self.spec.settings.enforce_eager}
        return {"worker_extension_cls": EXTENSION, **engine_arguments(self.spec), **graphs}

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._engine.model_config.dtype).removeprefix("torch.")

    def load_weights(self, path: Path) -> None:
        try:
            if self._loaded is None:
                self._loaded = self._in_workers("harvest_prove_reload", self.spec.model_path)
            if self._in_workers("harvest_reload", path) != self._loaded:
                raise ReloadRefused(f"the tensors of {path} are not those of {self.spec.model_path} by name or shape")
            if not self._engine.reset_prefix_cache(reset_connector=True):
                raise ReloadRefused("vLLM did not forget what it had computed with the weights of before")
        except ReloadRefused:
            raise
        except Exception as error:  # what a worker raises arrives as another type
            raise ReloadRefused(f"vLLM did not load {path}: {text_of(error)}") from error

    def _in_workers(self, method: str, path: Path) -> list[str]:
        """Call a method of ReloadingWorker; return its digest from each worker."""
        digests: list[str] = self._engine.collective_rpc(method, args=(os.fspath(path),))
        return digests

    def add(self, request: EngineRequest) -> None:
        # the recorder decodes the text once, when the completion is finished
        params = sampling_params(request, detokenize=False)
        internal_id = self._engine.add_request(
            request.request_id,
            {"prompt_token_ids": request.prompt_ids},
            params,
            lora_request=lora_request(request.adapter),
        )
        if not request.stop:
            self._partial[internal_id] = PartialCompletion(
                request_id=request.request_id, top_logprobs=request.top_logprobs
            )
        self.stats.prompt_tokens += len(request.prompt_ids)

    def step(self) -> list[EngineOutput]:
        # this is LLMEngine.step of vLLM without its statistics per request and token: nobody reads them, and they would
        # delay the next step
        core = self._engine.engine_core
        completed = self._process(core.get_output())
        # a core in its own process goes on meanwhile: what it has made waits in a queue, for requests to follow it soon
        waiting = getattr(core, "outputs_queue", None)
        while waiting is not None and not waiting.empty():
            completed += self._process(core.get_output())
        return completed

    def _process(self, outputs: Any) -> list[EngineOutput]:
        self._count(outputs)
        finished: dict[str, PartialCompletion] = {}
        due = [output for output in outputs.outputs if not self._hold_back(output, finished)]
        processed = self._engine.output_processor.process_outputs(due, engine_core_timestamp=outputs.timestamp)
        self._engine.engine_core.abort_requests(processed.reqs_to_abort)
        return [
            output_of_partial(output, partial) if (partial := finished.get(output.request_id)) else output_of(output)
            for output in processed.request_outputs
            if output.finished
        ]

    def _hold_back(self, output: Any, finished: dict[str, PartialCompletion]) -> bool:
        """Collect a step's tokens of one request. Return whether vLLM's output processor can do without them for now.

        When the request ends, ``output`` gets all of its tokens, and its completion goes into ``finished``. The output
        processor accepts many tokens at once. It needs them only at the end, unless it looks for stop strings.
        """
        partial = self._partial.get(output.request_id)
        if partial is None:
            return False
        partial.append(output.new_token_ids, output.new_logprobs)
        partial.append_stored(output.new_sampling_mask, output.routed_experts)
        if output.finish_reason is None:
            return True
        output.new_token_ids, output.new_logprobs = partial.completion_ids, None
        finished[partial.request_id] = self._partial.pop(output.request_id)
        return False

    def _count(self, outputs: Any) -> None:
        stats, scheduler = self.stats, outputs.scheduler_stats
        # a core in its own process makes tokens after a stop string, until it hears of it
        known = self._engine.output_processor.request_states
        stats.generation_tokens += sum(
            len(output.new_token_ids) for output in outputs.outputs if output.request_id in known
        )
        stats.preemptions += sum(
            event.type.name == "PREEMPTED" for output in outputs.outputs for event in output.events or ()
        )
        if scheduler is not None:
            stats.running = scheduler.num_running_reqs
            stats.waiting = scheduler.num_waiting_reqs
            stats.kv_cache_usage = scheduler.kv_cache_usage
            stats.prefix_cache_queries += scheduler.prefix_cache_stats.queries
            stats.prefix_cache_hits += scheduler.prefix_cache_stats.hits
            if (graph := scheduler.cudagraph_stats) is not None:
                stats.steps += 1
                stats.graph_steps += graph.runtime_mode != "NONE"


class VllmBatchEngine:
    """Calls ``LLM.generate`` of vLLM as scripts do. Benchmarks compare the generation loop with it."""

    def __init__(self, spec: EngineSpec, arguments: Callable[[EngineSpec], dict[str, Any]] | None = None) -> None:
        from vllm import LLM

        self._llm = LLM(**(arguments or engine_arguments)(spec))

    @property
    def version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    @property
    def dtype(self) -> str:
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def generate(self, requests: Sequence[EngineRequest], *, text: bool, only_ids: bool = False) -> list[Any]:
        """Complete all ``requests`` in one call. Return vLLM's outputs in their order, for ``convert_outputs``.

        With ``text``, vLLM decodes the text token by token, as it does by default. With ``only_ids`` requests have no
        seeds and ask for no logprobs; only ``count_tokens`` takes such outputs.
        """
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        params = [sampling_params(request, detokenize=text, only_ids=only_ids) for request in requests]
        adapters = [lora_request(request.adapter) for request in requests]
        lora = adapters if any(adapters) else None
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=lora)
        return outputs

    def convert_outputs(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """Return the outputs of one ``generate`` call, under the ids of its ``requests``."""
        return [
            replace(output_of(output), request_id=request.request_id)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def count_tokens(self, outputs: Sequence[Any]) -> int:
        """Return the number of completion tokens in the outputs of one ``generate`` call."""
        return sum(len(output.outputs[0].token_ids) for output in outputs)
