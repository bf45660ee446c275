"""Loads other weights into a running vLLM engine, and proves it. vLLM adds these methods to each of its workers.

A reload counts only when three things hold, for each worker:

- A load of changed tensors changes every parameter, also those that a kernel has packed, and a reload of the weights
  that the engine started with makes each of them again what it was, byte for byte and, on a GPU, at its address. So a
  reload does what a cold start does. This is shown once per engine, which costs two loads.
- vLLM's loader was given the same tensors as then, by name, type and shape: none is missing.
- Each of these tensors has the bytes that stand in the checkpoint's files, as far as samples show.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.plan.model_files import read_weights

if TYPE_CHECKING:
    import torch

EXTENSION = "tasks.generation.weight_reload.ReloadingWorker"
"""The class below, as vLLM's ``worker_extension_cls``."""
_CHUNK = 1 << 22
"""Words of a parameter that are summed at a time."""
_SAMPLE_BYTES = 4096


class WrongWeights(RuntimeError):
    """The engine does not have exactly the weights of the checkpoint."""


class ReloadingWorker:
    """What vLLM's worker can do besides: see the module. An engine calls it with nothing in flight."""

    def harvest_prove_reload(self, path: str) -> str:
        """Load changed weights, then those at ``path``, with which the engine was started. Return a digest as below.

        Raises WrongWeights when a parameter did not change, or is not what it was at last.
        """
        model = _runner(self).get_model()
        before = state_of(model)
        self._harvest_load(GivenTensors(Path(path)), changed)
        between = state_of(model)
        if stuck := [name for name, was in before.items() if name.loads and between.get(name) == was]:
            raise WrongWeights(f"a reload does not change {len(stuck)} parameters, as {stuck[0].name}")
        given = self.harvest_reload(path)
        after = state_of(model)
        if other := [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]:
            raise WrongWeights(f"after a reload {len(other)} parameters are not as after a start, as {other[0].name}")
        return given

    def harvest_reload(self, path: str) -> str:
        """Load the weights at ``path``. Return a digest of names, types and shapes of the tensors that were loaded.

        Raises WrongWeights when a tensor is not that of the file, or when vLLM cannot load it.
        """
        return self._harvest_load(GivenTensors(Path(path)), lambda tensor: tensor)

    def _harvest_load(self, given: "GivenTensors", change: "Callable[[torch.Tensor], torch.Tensor]") -> str:
        from vllm.model_executor.model_loader import get_model_loader

        config: Any = self.vllm_config  # type: ignore[attr-defined]  # an attribute of vLLM's worker
        loader, model = get_model_loader(config.load_config), _runner(self).get_model()
        if not hasattr(loader, "get_all_weights"):
            raise WrongWeights(f"vLLM reloads no weights with load_format {config.load_config.load_format!r}")
        source = copy.copy(config.model_config)
        source.model, source.model_weights, source.revision = str(given.path), "", None
        tensors = given.watch(loader.get_all_weights(source, model))
        self.reload_weights(  # type: ignore[attr-defined]  # a method of vLLM's worker
            weights_iterator=((name, change(tensor)) for name, tensor in tensors)
        )
        for module in model.modules():
            if hasattr(module, "cpu_linear") and module.weight.numel():
                # on a CPU an output layer that shares the embeddings' weights has packed a copy, which vLLM 0.32 leaves
                module.quant_method.process_weights_after_loading(module)
        return given.digest


class GivenTensors:
    """Compares the tensors that a loader is given with those in the files of the model at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = {tensor.name: tensor for tensor in read_weights(path)}
        if not self._stored:
            raise WrongWeights(f"{path} has no safetensors files, with which loaded tensors could be compared")
        self._given: list[str] = []

    @property
    def digest(self) -> str:
        """A digest of name, type and shape of each tensor so far."""
        return hashlib.sha256("\n".join(sorted(self._given)).encode()).hexdigest()

    def watch(self, tensors: "Iterable[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
        """Yield ``tensors``. Raises WrongWeights at one that differs from its file."""
        for name, tensor in tensors:
            if name in self._stored:
                self._compare(name, tensor)
            self._given.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
            yield name, tensor
        if not self._given:
            raise WrongWeights("vLLM found no weights to load")

    def _compare(self, name: str, tensor: "torch.Tensor") -> None:
        stored, data = self._stored[name], _as_bytes(tensor)
        if data.numel() == stored.nbytes:
            starts = (0, max(0, stored.nbytes - _SAMPLE_BYTES))
            with stored.file.open("rb") as file:
                for start in starts:
                    file.seek(stored.offset + start)
                    expected = file.read(min(_SAMPLE_BYTES, stored.nbytes))
                    if bytes(data[start : start + len(expected)].cpu().numpy()) != expected:
                        break
                else:
                    return
        raise WrongWeights(f"the tensor {name} that vLLM loads is not that of {stored.file}")


class Part(NamedTuple):
    """A tensor of a model. ``loads``: it holds weights of the checkpoint."""

    name: str
    loads: bool


def state_of(model: Any) -> dict[Part, tuple[int, int]]:
    """Return the checksum and, on a device, the address of every tensor with which ``model`` computes.

    What a CPU kernel has packed is seen by its product with a vector, and has no address.
    """
    import torch

    found: dict[Part, tuple[int, int]] = {}
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        rest = {**dict(module.named_buffers(recurse=False)), **vars(module)}
        for name, tensor in {**rest, **own}.items():
            if isinstance(tensor, torch.Tensor) and tensor.numel() and name != "kv_cache":
                part = Part(f"{prefix}.{name}", name in own)
                # a graph that was captured on a device goes on to read there
                found[part] = _checksum(_as_bytes(tensor.data)), tensor.data_ptr() if tensor.device.type != "cpu" else 0
        if hasattr(module, "cpu_linear"):
            found[Part(f"{prefix}, packed", loads=True)] = _checksum(_as_bytes(_product(module))), 0
    return found


def changed(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a tensor of the same type and shape, with other values that any type of weights can have."""
    import torch

    if tensor.is_floating_point() and tensor.element_size() > 1:
        return tensor + 1
    return (tensor.contiguous().view(torch.uint8) ^ 1).view(tensor.dtype)


def _product(module: Any) -> "torch.Tensor":
    import torch

    size = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    dtype = module.params_dtype if hasattr(module, "params_dtype") else module.weight.dtype
    vector = torch.linspace(-1, 1, size).to(dtype)[None]
    result: torch.Tensor = module.cpu_linear(vector, module.weight, getattr(module, "bias", None))
    return result


def _checksum(data: "torch.Tensor") -> int:
    """Return a number that depends on every byte of ``data`` and on its place. Computes where the data is."""
    import torch

    words = data.view(torch.int32) if data.numel() % 4 == 0 and data.data_ptr() % 4 == 0 else data
    factors = 2 * torch.arange(min(_CHUNK, words.numel()), device=data.device) * 2_654_435_761 + 1
    total = 0
    for chunk in words.split(_CHUNK):
        # sums wrap at 64 bits, on every device in the same way
        total = (total * 1_000_003 + int((chunk.to(torch.int64) * factors[: chunk.numel()]).sum())) % 2**64
    return total


def _as_bytes(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return the bytes of ``tensor``, of shape (bytes,), as they lie in its memory: no copy if it has no gaps."""
    import torch

    tensor = tensor.detach()
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).contiguous().view(-1).view(torch.uint8)


def _runner(worker: Any) -> Any:
    return worker.model_runner
