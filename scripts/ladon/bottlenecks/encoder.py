"""The encoder's one pinned form of execution: the bitstream must follow from the image alone.

A hyperprior's transforms are run by it, too: sender and receiver must compute them alike.

with pinned_arithmetic():                # once, in the main thread
    encode = Encoder(bottleneck.encoder)
    latent = encode(images)              # from any thread
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ladon.errors import in_one_line
from ladon.modules import is_watched

logger = logging.getLogger(__name__)

# of image sizes: each keeps an image's activations, about 60 MB at 416x416
_MOST_RECORDED = 8


@contextmanager
def pinned_arithmetic() -> Iterator[None]:
    """Deterministic convolutions in full float32 on a GPU (no TF32), while it is open.

    The flags belong to the process, not to a thread: whoever sets them while another thread
    computes changes what that one computes. Open it once around all threads that compute.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def encode_latent(encoder: nn.Module, images: Tensor) -> Tensor:
    """Run the encoder in float32 and channels_last, one image at a time.

    Libraries choose algorithms by batch size, rounding differs with them and with memory formats,
    and one latent symbol in a million with it. On a CPU it is also the fastest, because an image's
    activations fit its caches.

    Args:
        encoder: the bottleneck's encoder, weights in channels_last.
        images: [N, 3, H, W] float.

    Returns:
        Latent [N, C, h, w], float32.
    """
    images = images.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, enabled=False):
        return torch.cat([encoder(image[None]) for image in images])


class Encoder:
    """`encode_latent` for an evaluation; on a GPU, launched once per image and not per layer.

    An image's work is recorded as a CUDA graph, one for each size, and replayed: the same kernels
    on the same values, but a tenth of the host's time (a layer's launch takes longer than its
    work). Threads take turns, as they would on the GPU.

    Args:
        encoder: the bottleneck's encoder, or another of its transforms; weights in channels_last,
            which must not change.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = encoder
        self._records: dict[torch.Size, _Record] = {}
        self._recordable = True
        self._pool: Any = None
        self._taking_turns = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """Encode images [N, 3, H, W]; return their latent [N, C, h, w], float32."""
        record = None
        if images.is_cuda and torch.is_inference_mode_enabled():
            with self._taking_turns:
                record = self._record(images)
                if record is not None:
                    return record.replay(images)
        return encode_latent(self._encoder, images)

    def _record(self, images: Tensor) -> _Record | None:
        """Return the record for images of this size; None if there can be none."""
        # a replay calls nobody's hooks
        if not self._recordable or any(map(is_watched, self._encoder.modules())):
            return None
        size = images.shape[1:]
        if size not in self._records and len(self._records) < _MOST_RECORDED:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            try:
                self._records[size] = _Record(self._encoder, images[:1], self._pool)
            except RuntimeError as error:
                logger.info("The encoder is not recorded as a CUDA graph: %s", in_one_line(error))
                self._recordable = False
                return None
        return self._records.get(size)


class _Record:
    """The encoder's work on one image of a size, as a CUDA graph.

    Args:
        encoder: the bottleneck's encoder.
        image: [1, 3, H, W] on the GPU.
        pool: memory that records share: they are never replayed at once.
    """

    def __init__(self, encoder: nn.Module, image: Tensor, pool: Any) -> None:
        self._image = torch.empty_like(
            image, dtype=torch.float32, memory_format=torch.channels_last
        ).copy_(image)
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            encode_latent(encoder, self._image)  # libraries set themselves up
        current.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # of this thread: others go on launching and allocating
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._latent = encode_latent(encoder, self._image)

    def replay(self, images: Tensor) -> Tensor:
        """Encode images of the size, one by one."""
        shape = (len(images), *self._latent.shape[1:])
        latent = torch.empty(shape, device=images.device, memory_format=torch.channels_last)
        for number in range(len(images)):
            self._image.copy_(images[number : number + 1], non_blocking=True)
            self._graph.replay()
            latent[number : number + 1].copy_(self._latent)
        return latent
