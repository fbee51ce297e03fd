"""OpenVINO for what follows the payload on a CPU: decoder, stages, FPN and convolutional heads.

with by_openvino([decoder, layer2, ...], "bf16") as taken:   # modules whose forward it runs
    model(images)                                            # from any thread

A module's forward gives way, on the instance, to a graph that is made at its first call: traced on
a corner of that call's input, and kept only if it gives what PyTorch gives for all of it. Hooks of
the module stay outside and are called as ever. Whatever OpenVINO cannot take stays PyTorch's.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork

from ladon.errors import in_one_line
from ladon.models.bottleneck import replaced
from ladon.models.watched import is_watched
from ladon.tensors import map_tensors

logger = logging.getLogger(__name__)

_HINTS = {"float32": "f32", "bf16": "bf16"}
# how far a graph may be from PyTorch's float32, relative to the output's norm
_TOLERANCES = {"float32": 1e-4, "bf16": 0.1}
# Products from which on a graph pays: making it takes as long as PyTorch takes for about so many.
_WORTH = 1e11
# A module's kernels that are kept; each size of image has its own, about twenty.
_MOST_KERNELS = 256


@contextmanager
def by_openvino(
    parts: Iterable[nn.Module], precision: str, images: int | None = None
) -> Iterator[set[nn.Module]]:
    """Lets OpenVINO run what it can of some modules while it is open.

    Args:
        parts: disjoint modules in eval mode, on the CPU, BatchNorm folded; their weights must not
            change while it is open.
        precision: one of ``ladon.choices.PRECISIONS``; what OpenVINO runs returns float32.
        images: how many are going to be seen; a module that is not worth a graph for so few of
            their size stays PyTorch's. None for enough of them.

    Yields:
        The modules whose forward was exchanged, none of them within another.
    """
    modules = [found for part in parts for found in _convertible(part)]
    with ExitStack() as stack:
        if modules and _is_usable(precision):
            for module in modules:
                stack.enter_context(replaced(module, forward=_Forward(module, precision, images)))
        else:
            modules = []
        yield set(modules)


def _convertible(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts whose forward surely is the same computation for any input."""
    inside = list(module.modules())
    is_static = type(module).forward is nn.Sequential.forward or type(module) in (
        FeaturePyramidNetwork,
        RPNHead,
    )
    if (
        is_static
        and "forward" not in vars(module)
        and any(isinstance(m, nn.Conv2d) for m in inside)
        and not any(m.training for m in inside)
        and not any(is_watched(m) for m in inside if m is not module)
        and all(p.device.type == "cpu" and p.dtype is torch.float32 for p in module.parameters())
    ):
        yield module
    else:
        for child in module.children():
            yield from _convertible(child)


def _is_usable(precision: str) -> bool:
    """Whether OpenVINO is there and the processor has the precision; says why not."""
    try:
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # an installation that is broken may raise anything
        missing = importlib.util.find_spec("openvino") is None
        reason = "is not installed" if missing else f"does not work ({in_one_line(error)})"
        _say_once(
            f"OpenVINO {reason}: decoder, body and heads run in PyTorch, which is slower on a CPU "
            "(pip install openvino==2026.4.1)"
        )
        return False
    if precision == "bf16" and "BF16" not in capabilities:
        _say_once("This processor has no bf16 for OpenVINO: PyTorch computes what it can of it")
        return False
    return True


@functools.cache
def _say_once(message: str) -> None:
    logger.warning("%s", message)


@functools.cache
def _core() -> Any:
    # Importing OpenVINO, and its convert_model, tell Intel about it; without this package they
    # cannot. None makes an import of it fail, as where it is not installed.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino.Core()


class _Forward:
    """The forward of a module, by OpenVINO where it can.

    Args:
        module: on which this takes forward's place; called as it is as long as there is no graph.
        precision: of the graph.
        images: that are going to be seen; None for many.
    """

    def __init__(self, module: nn.Module, precision: str, images: int | None) -> None:
        self._module, self._forward, self._precision = module, module.forward, precision
        self._images = images
        self._converting = threading.Lock()
        self._is_refused = False
        self._graph: _Graph | None = None

    def __call__(self, *args: Any) -> Any:
        """Computes the module's output for its positional arguments."""
        if self._is_refused or torch.is_grad_enabled() or not len(_leaves(args)[0]):
            return self._forward(*args)
        if self._graph is None:
            with self._converting:
                if self._graph is None and not self._is_refused:
                    self._convert(map_tensors(lambda x: x[:1].float(), args))
            if self._graph is None:
                return self._forward(*args)
        return self._graph(args)

    def _convert(self, args: tuple[Any, ...]) -> None:
        """Makes the graph; leaves the module to PyTorch if there can be none.

        Args:
            args: of the first image.
        """
        if self._images is not None and self._images * _products(self._module, args) < _WORTH:
            self._is_refused = True
            return
        with torch.autocast("cpu", enabled=False):
            expected = self._forward(*args)  # what it raises is the caller's business
            try:
                graph = _Graph(self._module, self._forward, args, expected, self._precision)
                difference = _difference(_leaves(graph(args)), _leaves(expected))
            except Exception as error:  # of a library about a model that it may not know
                self._refuse(in_one_line(error)[:200])
                return
        if difference > _TOLERANCES[self._precision]:
            self._refuse(f"its result differs by {difference:.2g}")
        elif difference == difference:  # else PyTorch goes on to whoever looks for NaN
            self._graph = graph
        else:
            self._is_refused = True

    def _refuse(self, reason: str) -> None:
        self._is_refused = True
        kind = type(self._module).__name__
        _say_once(f"A {kind} runs in PyTorch, slower: OpenVINO cannot take it ({reason})")


def _products(module: nn.Module, args: tuple[Any, ...]) -> int:
    """About how many products a module's convolutions take for an image, more rather than less."""
    pixels = max(x[0, 0].numel() for x in _leaves(args))
    return pixels * sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest of the outputs' distances, relative to their norms; NaN if one is not finite."""
    distances = [
        torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y).clamp_min(1e-30)
        for x, y in zip(found, expected, strict=True)
    ]
    return float(torch.stack(distances).amax())


class _Graph:
    """A module as OpenVINO's graph, for any batch and size.

    Args:
        module: whose parameters it is about.
        forward: its own forward.
        args: of a call: nested float32 tensors.
        expected: the output for them.
        precision: one of ``ladon.choices.PRECISIONS``.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        expected: Any,
        precision: str,
    ) -> None:
        self._output, self._count = _skeleton(expected), len(_leaves(expected))
        model = _converted(_Flat(module, forward, _skeleton(args)), _leaves(args))
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # other processes may have these cores, too
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": _MOST_KERNELS,
        }
        self._compiled = _core().compile_model(model, "CPU", options)
        self._of_thread = threading.local()

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """Computes the outputs of args like those that it was made with, in float32.

        One image at a time: rounding may depend on the batch's size, and time does not.
        """
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        inputs = [_channels_last(x.detach().float()).contiguous() for x in _leaves(args)]
        outputs: list[Tensor] = []
        for number in range(len(inputs[0])):
            image = [x[number : number + 1].numpy() for x in inputs]
            found = request.infer(image, share_inputs=True, share_outputs=True)
            rows = [found[n] for n in range(self._count)]
            if not outputs:
                outputs = [torch.empty((len(inputs[0]), *row.shape[1:])) for row in rows]
            for output, row in zip(outputs, rows, strict=True):
                output[number : number + 1].numpy()[...] = row  # the next image takes its place
        filled = map(_channels_first, outputs)
        return map_tensors(lambda _: next(filled), self._output)


class _Flat(nn.Module):
    """A module whose inputs and outputs are a row of tensors, channels last as in memory.

    So nothing has to be moved between PyTorch and OpenVINO, both of which compute in that order.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any], args: Any) -> None:
        super().__init__()
        self.module, self._compute, self._args = module, forward, args

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs, one after the other."""
        inputs = map(_channels_first, leaves)
        outputs = self._compute(*map_tensors(lambda _: next(inputs), self._args))
        return tuple(map(_channels_last, _leaves(outputs)))


def _converted(flat: _Flat, inputs: Sequence[Tensor]) -> Any:
    """Returns OpenVINO's model of a module, without what its convert_model does besides."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a trace may have missed is looked for afterwards
        # of another size than the input: what a trace took for constant shows when it is compared
        corners = tuple(_channels_last(_corner(x).clone()) for x in inputs)
        traced = torch.jit.trace(flat, corners, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=corners)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    shapes = {
        port: openvino.PartialShape([*[-1] * (x.dim() - 1), x.shape[1 if x.dim() == 4 else -1]])
        for port, x in zip(model.inputs, inputs, strict=True)
    }
    model.reshape(shapes)
    return model


def _leaves(value: Any) -> list[Tensor]:
    """The tensors of nested containers, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def _skeleton(value: Any) -> Any:
    """Nested containers with something small in the place of each tensor."""
    return map_tensors(lambda _: torch.empty(0), value)


def _corner(x: Tensor) -> Tensor:
    return x[..., : -(-x.shape[-2] // 2), : -(-x.shape[-1] // 2)] if x.dim() == 4 else x


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x
