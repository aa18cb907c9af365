"""A pretended accelerator: tensors that hold their values on the CPU and say that they are elsewhere.

torch leaves a device type free for others' hardware ("PrivateUse1"). Here it is taken by a tensor that wraps
one of the CPU and gives ``pretended`` as its device; every operation that meets it is computed on the CPU. So
a Trainer, its moving of batches, an optimiser and a backward pass run as they would on a GPU, with a CPU's
numbers, and two things show that a CPU hides:

- An operation on tensors of mixed devices raises, as CUDA's does: ``MixedDevices``.
- Wherever the host would have to wait for the device is noted, with the line that asked: ``Ledger``. That is
  reading a value (``.item()``, ``int()``, ``bool()``, ``.tolist()``), shapes that values decide (boolean
  masks, ``nonzero``, ``unique``, ``repeat_interleave`` by a tensor), copies to the host, and copies to the
  device that do not say ``non_blocking``. It is what ``torch.cuda.set_sync_debug_mode`` looks for.

What it does not reach: speed, memory, streams, page-locked memory and races (a copy is finished when it
returns); autocast and half precision; the kernels of cuDNN and cuBLAS, among them cuDNN's fused recurrent
networks, in whose place stand torch's cells, written out below; what CUDA's kernels wait for inside
(``multinomial`` looks at its probabilities on some versions); other threads than the trainer's, and so the
prefetching of ADDR's bank; ranking, which is on the CPU for all devices but CUDA's; several devices and NCCL;
a process that forks once its device was used.

It rests on parts of torch that may change without notice, so it names the versions that it was seen to work
with (``SUPPORTED``); elsewhere ``unsupported`` says so, and the tests are skipped with that sentence.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "pretended"
SUPPORTED = ("2.14",)
PACKAGE = f"{Path(__file__).parents[1].name}/crossmodal_bench/"
Operation = Callable[..., Any]


def unsupported() -> str | None:
    """Why this torch cannot pretend, or None."""
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in SUPPORTED:
        return f"the pretended accelerator works with torch {', '.join(SUPPORTED)}, and this is {version}"
    return None


class MixedDevices(RuntimeError):
    """An operation on tensors of the host and of the device."""


class Ledger:
    """Where the host waited for the device: how often, by kind and line of the package.

    Attributes:
        waits: counts of (kind, line).
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()

    def note(self, kind: str) -> None:
        """One more."""
        self.waits[kind, _asking_line()] += 1

    def take(self) -> Counter[tuple[str, str]]:
        """What was noted since the last time."""
        taken, self.waits = self.waits, Counter()
        return taken


LEDGER = Ledger()


def _asking_line() -> str:
    """The innermost line of the package that is being run; of backward passes there is none."""
    for frame in reversed(traceback.extract_stack()):
        if "/crossmodal_bench/" in frame.filename and "/site-packages/" not in frame.filename:
            return f"{frame.filename.rpartition('/crossmodal_bench/')[2]}:{frame.lineno}"
    return "elsewhere"


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_initialized(self) -> bool:
        return True

    # Once torch knows the device, code on the CPU saves its generator along with the CPU's.
    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        pass


@cache
def device() -> torch.device:
    """The pretended device, which torch is told of at the first call."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    return torch.device(NAME, 0)


class Elsewhere(Tensor):
    """A tensor of the pretended device; ``inner`` is the CPU's, which has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device(),
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        LEDGER.note("tolist()")
        return self.inner.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        LEDGER.note("new_tensor of the host's values")
        return Elsewhere(self.inner.new_tensor(data, **options))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As a device's tensor is saved: copied to the host first.
        LEDGER.note("saved")
        return self.inner.detach().clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return Elsewhere(self.inner.detach().clone())


class Pretending(TorchDispatchMode):
    """Inside, tensors can be made on the pretended device and moved to it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _is_composite(func):
            # Without autograd, in inference mode, operations arrive that are made of others.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return _computed(func, args, kwargs or {})


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


class _MadeOfNumbers(TorchFunctionMode):
    """``torch.tensor(..., device=...)``, which copies to a device below the reach of a dispatch mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            wanted = options.pop("device", None)
            if wanted is not None and torch.device(wanted).type == NAME:
                LEDGER.note("tensor made of the host's numbers on the device")
                return Elsewhere(func(*args, **options))
        return func(*args, **(kwargs or {}))


class PretendedAccelerator(CPUAccelerator):
    """Lightning's accelerator of the pretended device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing is to be set up."""


@contextmanager
def pretended(trainer: pl.Trainer) -> Iterator[None]:
    """Let a Trainer of one CPU process run on the pretended device."""
    trainer.strategy._root_device = device()  # type: ignore[attr-defined]
    trainer.strategy.accelerator = PretendedAccelerator()
    LEDGER.take()
    # In one thread: what raises in another one's guard of a device ends the process.
    with torch.autograd.set_multithreading_enabled(False), Pretending(), _MadeOfNumbers():
        yield


_SHAPED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
_RNN_LENGTHS = ("_pack_padded_sequence", "_pad_packed_sequence", "_pack_padded_sequence_backward")
"""These are told lengths and batch sizes on the host, wherever the data are."""


def _computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives: computed on the CPU, and wrapped where the device would have it."""
    operands = [*_tensors(args), *_tensors(kwargs.values())]
    elsewhere = [tensor for tensor in operands if isinstance(tensor, Elsewhere)]
    name = func._schema.name.partition("::")[2]
    wanted = kwargs.get("device")
    on_device = bool(elsewhere) if wanted is None else torch.device(wanted).type == NAME
    if not elsewhere and not on_device:
        return func(*args, **kwargs)
    if name in ("pin_memory", "_pin_memory"):
        return args[0]
    on_device = _look_at(func, name, args, kwargs, operands, on_device)
    inner_args = _mapped(args, _inner)
    inner_kwargs = {key: _mapped(value, _inner) for key, value in kwargs.items()}
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if name in _WRITTEN_OUT:
        return _mapped(_WRITTEN_OUT[name](*inner_args, **inner_kwargs), Elsewhere)
    result = func(*inner_args, **inner_kwargs)
    if name == "_local_scalar_dense":
        return result
    if name == "_pack_padded_sequence":
        return Elsewhere(result[0]), result[1]
    if name == "_pad_packed_sequence":
        return Elsewhere(result[0]), result[1]
    if name == "_to_copy" and on_device and result is inner_args[0]:
        result = result.clone()
    if not on_device:
        return result
    known = {id(tensor.inner): tensor for tensor in elsewhere}

    def wrap(tensor: Tensor) -> Tensor:
        # In-place operations give back what they were given.
        return known[id(tensor)] if id(tensor) in known else Elsewhere(tensor)

    wrapped = _mapped(result, wrap)
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped) if elsewhere else wrapped


def _inner(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, Elsewhere) else tensor


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among arguments and in lists of them; torch's own walk through them takes ten times as long."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same with another tensor for each."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(item, function) for item in value])
    return value


def _look_at(
    func: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    operands: list[Tensor],
    on_device: bool,
) -> bool:
    """Note what the host waits for, and refuse mixed devices; whether the result is on the device."""
    at_home = [tensor for tensor in operands if not isinstance(tensor, Elsewhere)]
    if name in ("_to_copy", "copy_"):
        target, source = (on_device, args[0]) if name == "_to_copy" else (args[0], args[1])
        to_device = bool(target) if name == "_to_copy" else isinstance(args[0], Elsewhere)
        from_device = isinstance(source, Elsewhere)
        later = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if from_device and not to_device:
            LEDGER.note("copy to the host")
        elif to_device and not from_device and not later and source.numel():
            LEDGER.note("blocking copy to the device")
        return to_device
    if name == "_local_scalar_dense":
        LEDGER.note("item(), int(), float() or bool()")
    elif name in _SHAPED_BY_VALUES:
        LEDGER.note(f"{name}: its shape depends on values")
    elif name == "repeat_interleave" and func._overloadname == "Tensor":
        if kwargs.get("output_size") is None:
            LEDGER.note("repeat_interleave by a tensor without output_size")
    elif name == "equal":
        LEDGER.note("torch.equal()")
    if name in _INDEXED:
        _look_at_index(name, args)
    elif name not in _RNN_LENGTHS and any(tensor.ndim for tensor in at_home):
        shapes = ", ".join(
            f"{tuple(tensor.shape)} on {tensor.device.type}" for tensor in operands if tensor.ndim
        )
        raise MixedDevices(f"{name} of tensors on two devices: {shapes}")
    return on_device


def _look_at_index(name: str, args: tuple[Any, ...]) -> None:
    """Indices may be the host's, which costs a copy; what is indexed must be where its values are."""
    indexed = args[0]
    for index in args[1] or ():
        if not isinstance(index, Tensor):
            continue
        if isinstance(index, Elsewhere) and not isinstance(indexed, Elsewhere):
            raise MixedDevices(f"{name} of the host's tensor by an index on the device")
        if index.dtype in (torch.bool, torch.uint8):
            LEDGER.note("boolean mask: its shape depends on values")
        elif not isinstance(index, Elsewhere) and index.ndim:
            LEDGER.note("index on the host, copied to the device")
    values = [value for value in args[2:3] if isinstance(value, Tensor) and value.ndim]
    if any(isinstance(value, Elsewhere) != isinstance(indexed, Elsewhere) for value in values):
        raise MixedDevices(f"{name}: values and what they are put into are on two devices")


# ---- recurrent cells ------------------------------------------------------------------------------------
# torch takes fused cells on every device but the CPU, which has no kernels of them.


def _gru_cell(
    inputs: Tensor,
    hidden: Tensor,
    state: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if input_bias is not None and hidden_bias is not None:
        inputs, hidden = inputs + input_bias, hidden + hidden_bias
    input_reset, input_update, input_new = inputs.chunk(3, 1)
    hidden_reset, hidden_update, hidden_new = hidden.chunk(3, 1)
    reset = (input_reset + hidden_reset).sigmoid()
    update = (input_update + hidden_update).sigmoid()
    new = (input_new + reset * hidden_new).tanh()
    return new + update * (state - new), torch.cat([reset, update, new, state, hidden_new], 1)


def _gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    reset, update, new, state, hidden_new = workspace.chunk(5, 1)
    of_new = (1 - update) * gradient * (1 - new**2)
    of_update = (state - new) * gradient * update * (1 - update)
    of_reset = of_new * hidden_new * reset * (1 - reset)
    of_inputs = torch.cat([of_reset, of_update, of_new], 1)
    of_hidden = torch.cat([of_reset, of_update, of_new * reset], 1)
    return of_inputs, of_hidden, update * gradient, of_inputs.sum(0), of_hidden.sum(0)


def _lstm_cell(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden
    if input_bias is not None and hidden_bias is not None:
        gates = gates + input_bias + hidden_bias
    enter, forget, new, leave = gates.chunk(4, 1)
    enter, forget, new, leave = enter.sigmoid(), forget.sigmoid(), new.tanh(), leave.sigmoid()
    after = forget * cell + enter * new
    return leave * after.tanh(), after, torch.cat([enter, forget, new, leave], 1)


def _lstm_cell_backward(
    of_state: Tensor | None,
    of_cell: Tensor | None,
    before: Tensor,
    after: Tensor,
    workspace: Tensor,
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    enter, forget, new, leave = workspace.chunk(4, 1)
    seen = after.tanh()
    of_state = torch.zeros_like(after) if of_state is None else of_state
    total = of_state * leave * (1 - seen**2) + (0 if of_cell is None else of_cell)
    gates = torch.cat(
        [
            total * new * enter * (1 - enter),
            total * before * forget * (1 - forget),
            total * enter * (1 - new**2),
            of_state * seen * leave * (1 - leave),
        ],
        1,
    )
    return gates, total * forget, gates.sum(0)


_WRITTEN_OUT: dict[str, Operation] = {
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
}
