"""Convolutions with weights packed for oneDNN: when they can be used, and with what input.

They serve inference on the CPU, compute with the weights of when they were made, and have neither
parameters nor a state dict.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ladon.errors import LadonError


def inference_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution computes in, which is autocast's where that is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class PackedConv2d(nn.Module):
    """A convolution whose weights are packed at the first call, for each dtype.

    Attributes:
        kind: what errors call it.
        operator: oneDNN's operator that it stands on.
    """

    kind: ClassVar[str]
    operator: ClassVar[str]

    def __init__(self, weight: Tensor, *, relu: bool) -> None:
        super().__init__()
        # not a buffer: one float32 original, whatever the model is converted to
        self._weight = weight.detach().float().contiguous().clone()
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
