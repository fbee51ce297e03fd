"""The bottleneck of a model: finding it, switching entropy coding on, and measuring payloads.

One adapter for every model: sc2bench's bottleneck keeps its class and its state dict; only its
``encode`` and ``decode`` are replaced on the instance while an evaluation runs.
"""

from __future__ import annotations

import logging
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck
from sc2bench.models.layer import BaseBottleneck, FPBasedResNetBottleneck
from torch import Tensor, nn

from ladon.codec import LatentCoder, quantize
from ladon.codec.tables import check_quantiles
from ladon.models.encoder import Encoder, pinned_arithmetic
from ladon.tensors import is_finite

logger = logging.getLogger(__name__)

CDF_TABLES = ("_quantized_cdf", "_cdf_length", "_offset")
KIB = 1024
# Python 3.14 changed pickle's default; the published sizes were taken with protocol 4
_PROTOCOL = 4


def find_bottleneck(model: nn.Module) -> BaseBottleneck | None:
    """Returns the model's bottleneck (encoder, entropy bottleneck, decoder), or None."""
    return next((m for m in model.modules() if isinstance(m, BaseBottleneck)), None)


def find_coded(model: nn.Module) -> FPBasedResNetBottleneck | None:
    """Returns the model's bottleneck if it is the paper's: one latent with a factorised prior.

    Others (sc2bench's hyperpriors) code two latents; they run as sc2bench has them.
    """
    bottleneck = find_bottleneck(model)
    return bottleneck if isinstance(bottleneck, FPBasedResNetBottleneck) else None


def is_updated(model: nn.Module) -> bool:
    """Whether the model has a bottleneck whose CDF tables are built (entropy coding is on)."""
    bottleneck = find_bottleneck(model)
    return bottleneck is not None and bool(bottleneck.updated)


def set_updated(model: nn.Module, updated: bool) -> None:
    """Sets the flags by which sc2bench's modules choose between noise and entropy coding."""
    for module in model.modules():
        if isinstance(module, BaseBottleneck):
            module.updated = updated
        if hasattr(module, "bottleneck_updated"):
            module.bottleneck_updated = updated


def update_bottleneck(model: nn.Module) -> bool:
    """Builds the CDF tables where they are missing and switches entropy coding on.

    Returns:
        Whether the model has a bottleneck.

    Raises:
        CheckpointError: if its quantiles are none that tables can be built of.
    """
    bottleneck = find_bottleneck(model)
    if bottleneck is None:
        return False
    for module in bottleneck.modules():
        if isinstance(module, EntropyBottleneck) and not module._offset.numel():
            check_quantiles(module.quantiles)  # a training may have driven them anywhere
    bottleneck.update()  # leaves tables that are already there as they are
    set_updated(model, True)
    return True


def use_own_noise(model: nn.Module, seed: int, device: torch.device) -> torch.Generator | None:
    """Draws the student's quantisation noise from a generator of its own.

    CompressAI adds uniform noise in [-0.5, 0.5) from torch's global generator, so that any other
    draw would change the training. Returns the generator (to be saved with the run), or None for
    a model without a bottleneck.
    """
    bottleneck = find_bottleneck(model)
    if bottleneck is None:
        return None
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    inherited = EntropyBottleneck.quantize

    def quantize(
        self: EntropyBottleneck, inputs: Tensor, mode: str, means: Tensor | None = None
    ) -> Tensor:
        if mode != "noise":
            return inherited(self, inputs, mode, means)
        noise = torch.empty_like(inputs).uniform_(-0.5, 0.5, generator=generator)
        return inputs + noise

    entropy_bottleneck = bottleneck.entropy_bottleneck
    entropy_bottleneck.quantize = types.MethodType(quantize, entropy_bottleneck)
    if type(entropy_bottleneck).forward is EntropyBottleneck.forward:
        entropy_bottleneck.forward = types.MethodType(_forward, entropy_bottleneck)
    return generator


def _forward(
    self: EntropyBottleneck, x: Tensor, training: bool | None = None
) -> tuple[Tensor, Tensor]:
    """EntropyBottleneck's forward, with the order of dimensions known to the host.

    CompressAI keeps it in a tensor on the device, and reads that eight times in each step.
    """
    training = self.training if training is None else training
    by_channel = x.transpose(0, 1).contiguous()
    values = by_channel.reshape(x.size(1), 1, -1)
    outputs = self.quantize(values, "noise" if training else "dequantize", self._get_medians())
    likelihood, _, _ = self._likelihood(outputs)
    if self.use_likelihood_bound:
        likelihood = self.likelihood_lower_bound(likelihood)
    return tuple(
        part.reshape(by_channel.shape).transpose(0, 1).contiguous()
        for part in (outputs, likelihood)
    )


def published_size(payload: bytes, shape: torch.Size) -> float:
    """Data size of one image in KiB as the paper's repository measures it.

    That is the pickled ``{'strings': [[payload]], 'shape': torch.Size([H, W])}`` (sc2bench's
    FileSizeAnalyzer): 103 to 115 bytes more than the payload.
    """
    pickled = pickle.dumps({"strings": [[payload]], "shape": torch.Size(shape)}, _PROTOCOL)
    return sys.getsizeof(pickled) / KIB


class Payloads(threading.local):
    """Sizes of the payloads that this thread's model calls encoded, in the batch's order.

    Attributes:
        nbytes: bytes of each image's payload.
        published_kib: each image's published data size in KiB.
    """

    def __init__(self) -> None:
        self.nbytes: list[int] = []
        self.published_kib: list[float] = []
        self._finite: Tensor | None = None

    def note(self, latent: Tensor) -> None:
        """Looks, on its device, whether a latent is finite; nobody waits for the answer here."""
        finite = is_finite(latent)
        self._finite = finite if self._finite is None else self._finite & finite

    def pop_finite(self) -> Tensor | None:
        """Returns whether this thread's latents since its last call were finite, a bool scalar."""
        finite, self._finite = self._finite, None
        return finite

    def add(self, strings: list[bytes], shape: torch.Size) -> None:
        """Records the payloads of a batch."""
        self.nbytes += [len(s) for s in strings]
        self.published_kib += [published_size(s, shape) for s in strings]

    def pop(self) -> tuple[list[int], list[float]]:
        """Returns the sizes that this thread recorded since its last call, and forgets them."""
        sizes = self.nbytes, self.published_kib
        self.nbytes, self.published_kib = [], []
        return sizes


def decode_latent(decoder: nn.Module, latent: Tensor) -> Tensor:
    """Runs the decoder in channels_last; on a CPU one image at a time, as its caches have it.

    Args:
        decoder: the bottleneck's decoder, weights in channels_last.
        latent: [N, C, h, w] float32.

    Returns:
        Features [N, K, H, W].
    """
    latent = latent.contiguous(memory_format=torch.channels_last)
    if latent.is_cuda:
        return decoder(latent)
    return torch.cat([decoder(one[None]) for one in latent])


@contextmanager
def entropy_coding(model: nn.Module, mode: str = "full") -> Iterator[Payloads]:
    """Evaluation of a model with its bottleneck coded, whatever the batch size.

    While it is open, each image's latent is turned into a payload of its own. Before ``update()``
    there are no tables to code with: the quantised latent is decoded, as sc2bench does it, but
    without the likelihoods, which nothing in an evaluation reads.

    Open it in the main thread, around all threads that compute (see ``pinned_arithmetic``).

    Args:
        model: model in eval mode; one without the paper's bottleneck is left as it is.
        mode: one of ``ladon.choices.MODES``. Coding is lossless, so scores are the same in all of
            them; sizes are those of real payloads in the first two.

    Yields:
        Payloads, filled by each forward pass.
    """
    payloads = Payloads()
    bottleneck = find_coded(model)
    with ExitStack() as stack:
        stack.enter_context(pinned_arithmetic())
        if bottleneck is not None:
            bottleneck.encoder.to(memory_format=torch.channels_last)
            is_coded = bottleneck.updated
            own = (_coded if is_coded else _quantised)(bottleneck, mode, payloads)
            stack.enter_context(replaced(bottleneck, **own))
        elif find_bottleneck(model) is not None:
            logger.warning("sc2bench codes this bottleneck itself: data sizes are not recorded")
        yield payloads


@contextmanager
def replaced(module: nn.Module, **methods: Callable[..., Any]) -> Iterator[None]:
    """Puts methods into the place of a module's own, on this instance, while it is open."""
    before = {name: vars(module)[name] for name in methods if name in vars(module)}
    vars(module).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(module)[name]
        vars(module).update(before)


def _quantised(
    bottleneck: BaseBottleneck, _mode: str, payloads: Payloads
) -> dict[str, Callable[..., Any]]:
    """What takes the place of the methods of a bottleneck that is not updated."""
    medians = bottleneck.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
    encoder = Encoder(bottleneck.encoder)

    def forward(images: Tensor) -> Tensor:
        latent = encoder(images)
        payloads.note(latent)
        return decode_latent(bottleneck.decoder, quantize(latent, medians))

    return {"forward": forward}


def _coded(
    bottleneck: BaseBottleneck, mode: str, payloads: Payloads
) -> dict[str, Callable[..., Any]]:
    """What takes the place of the methods of an updated bottleneck."""
    coder = LatentCoder(bottleneck.entropy_bottleneck)
    encoder = Encoder(bottleneck.encoder)

    def encode(images: Tensor, **_: object) -> dict:
        latent = encoder(images)
        payloads.note(latent)
        shape = latent.shape[-2:]
        if mode == "estimate":
            payloads.add([bytes(size) for size in coder.estimate(latent)], shape)
            return {"strings": coder.quantize(latent), "shape": shape}
        strings = coder.encode(latent)
        payloads.add(strings, shape)
        coded = [strings] if mode == "full" else coder.quantize(latent)
        return {"strings": coded, "shape": shape}

    def decode(strings: list[list[bytes]] | Tensor, shape: torch.Size) -> Tensor:
        latent = strings if isinstance(strings, Tensor) else coder.decode(strings[0], shape)
        return decode_latent(bottleneck.decoder, latent)

    return {"encode": encode, "decode": decode}
