"""Convolutions with weights packed for oneDNN: when they can be used, and with what input.

They serve inference on the CPU, compute with the weights of when they were made, and have neither
parameters nor a state dict.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ladon.errors import LadonError


def inference_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution computes in, which is autocast's where that is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _own_weight(conv: nn.Conv2d) -> Tensor:
    """Copy a convolution's weight, once: a model's weights are many pages of new memory."""
    weight = conv.weight.detach().float().contiguous()  # of channels_last already a copy
    return weight.clone() if weight.data_ptr() == conv.weight.data_ptr() else weight


class PackedConv2d(nn.Module):
    """A convolution whose weights are packed at the first call, for each dtype.

    Attributes:
        kind: what errors call it.
        operator: oneDNN's operator that it stands on.
        needs: what a convolution has to be, for errors.

    Args:
        conv: one that :meth:`can_replace` accepts.
        relu: also apply the ReLU that follows it.
        weight: the convolution's, float32 and contiguous, if the caller has a copy already.
    """

    kind: ClassVar[str]
    operator: ClassVar[str]
    needs: ClassVar[str]

    def __init__(self, conv: nn.Conv2d, *, relu: bool, weight: Tensor | None = None) -> None:
        super().__init__()
        # not a buffer: one float32 original, whatever the model is converted to
        self._weight = _own_weight(conv) if weight is None else weight
        self.relu = relu
        self._packed: dict = {}

    @classmethod
    def can_replace(cls, module: nn.Module) -> bool:
        """Whether the module can be replaced, and PyTorch has the operators for it here."""
        return (
            type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.groups == 1
            and module.weight.device.type == "cpu"
            and module.weight.dtype == torch.float32
            and cls.is_available()
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, relu: bool = False) -> Self:
        """Return a module that computes what the convolution does, up to rounding.

        Args:
            conv: the convolution.
            relu: also apply the ReLU that follows it (or follows the sum with a shortcut).

        Raises:
            LadonError: the convolution is of another kind (:meth:`can_replace` says so).
        """
        if not cls.can_replace(conv):
            text = f"no {cls.kind} convolution for {conv}: it has to be {cls.needs}"
            raise LadonError(f"{text}; keep the nn.Conv2d")
        return cls(conv, relu=relu)

    @classmethod
    def is_available(cls) -> bool:
        """Whether PyTorch has the operators here, for bfloat16 too."""
        return (
            torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, cls.operator)
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )

    def __getstate__(self) -> dict:
        # packed weights can neither be copied nor pickled
        return {**self.__dict__, "_packed": {}}

    def _prepared(self, x: Tensor) -> Tensor:
        """Return the input in the dtype to compute in and channels_last.

        Raises:
            LadonError: an input that the operators must not see.
        """
        x = x.to(inference_dtype(x))
        inputs = self._weight.shape[1]  # no groups
        if (
            x.device.type != "cpu"
            or x.dtype not in (torch.float32, torch.bfloat16)
            or (torch.is_grad_enabled() and x.requires_grad)
            or x.dim() != 4
            or x.shape[1] != inputs
            or not self._is_large_enough(x)
        ):
            rows, columns = self._weight.shape[2:]
            raise LadonError(
                f"this {self.kind} convolution is for inference on the CPU, with [N, {inputs}, H, "
                f"W] in float32 or bfloat16, no smaller than its {rows}x{columns} kernel; got "
                f"{x.dtype} {list(x.shape)} on {x.device}, requires_grad={x.requires_grad}: keep "
                "the nn.Conv2d for anything else"
            )
        return x.contiguous(memory_format=torch.channels_last)

    def _is_large_enough(self, x: Tensor) -> bool:
        """Whether there is an output; oneDNN's operators see to it themselves."""
        return True


class FusedConv2d(PackedConv2d):
    """A convolution, the sum with a shortcut and ReLU in one; see :meth:`from_conv`."""

    kind, operator = "fused", "_convolution_pointwise_"
    needs = (
        "float32, on a CPU for which oneDNN has bfloat16, without groups and padded with a given "
        "number of zeros"
    )

    def __init__(self, conv: nn.Conv2d, *, relu: bool, weight: Tensor | None = None) -> None:
        super().__init__(conv, relu=relu, weight=weight)
        self._bias = None if conv.bias is None else conv.bias.detach().float().clone()
        self._padding: list[int] = [int(side) for side in conv.padding]  # never a word: see needs
        self._dilation = list(conv.dilation)
        self._stride, self._groups = list(conv.stride), conv.groups

    def _conv(self, x: Tensor) -> tuple[Any, ...]:
        """Return the operator's arguments after x: weight, bias and geometry.

        The weight has x's dtype and the layout that oneDNN wants, and no taps that are in the
        padding at every position, as most of a strongly dilated kernel's are on a small map.
        """
        cut = tuple(map(self._unreached, x.shape[2:], (0, 1)))
        if (x.dtype, cut) not in self._packed:
            rows, columns = cut
            padding = [
                p - n * d for p, n, d in zip(self._padding, cut, self._dilation, strict=True)
            ]
            kernel = self._weight
            kernel = kernel[..., rows : kernel.shape[2] - rows, columns : kernel.shape[3] - columns]
            geometry = padding, self._stride, self._dilation, self._groups
            weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                kernel.to(x.dtype).contiguous().to_mkldnn(), *geometry, list(x.shape)
            )
            bias = None if self._bias is None else self._bias.to(x.dtype)
            self._packed[x.dtype, cut] = weight, bias, *geometry
        return self._packed[x.dtype, cut]

    def _unreached(self, side: int, axis: int) -> int:
        """Return how many taps at each end of the kernel no position of a map has on the map."""
        padding, dilation = self._padding[axis], self._dilation[axis]
        taps = self._weight.shape[2 + axis]
        # both ends alike: the first tap lies as far before the first position as the last behind
        # the last
        if 2 * padding != dilation * (taps - 1):
            return 0
        return sum(padding - tap * dilation >= side for tap in range(taps // 2))

    def forward(self, x: Tensor, shortcut: Tensor | None = None, *, owned: bool = False) -> Tensor:
        """Convolves, adds the shortcut if there is one, and applies ReLU if made to.

        Args:
            x: [N, C, H, W], float32 or bfloat16 (what autocast makes of it), no gradient.
            shortcut: [N, K, H', W'], converted to x's dtype.
            owned: the shortcut is of use to nobody else: the result may overwrite it.

        Returns:
            [N, K, H', W'], channels last, of x's dtype.

        Raises:
            LadonError: any other x.
        """
        x = self._prepared(x)
        conv = self._conv(x)
        then = "relu" if self.relu else "none"
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *conv, then, [], "")
        shortcut = shortcut.to(x.dtype).contiguous(memory_format=torch.channels_last)
        conv += ("add", 1.0, then if self.relu else None, [], "")
        if owned:
            return torch.ops.mkldnn._convolution_pointwise_.binary(shortcut, x, *conv)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, shortcut, *conv)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Convolve x [N, C, H, W] and multiply the result by a factor of its shape and dtype."""
        x = self._prepared(x)
        factor = factor.to(x.dtype).contiguous(memory_format=torch.channels_last)
        conv = (*self._conv(x), "mul", 1.0, None, [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(x, factor, *conv)
