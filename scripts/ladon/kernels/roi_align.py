"""RoIAlign for inference on the CPU by as many threads as PyTorch's operators have.

torchvision's operator runs in one thread, and takes 1,000 proposals of an image about as long as a
ResNet-50 takes the image in two. A box's result depends on no other box: here each thread pools a
share of them, and maps in channels_last are copied once and not by every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

_FEWEST = 32  # boxes that are worth a thread's start


class ThreadedRoIAlign(nn.Module):
    """A `MultiScaleRoIAlign` whose boxes are shared between threads; equal to the bit.

    Args:
        pool: torchvision's.
    """

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        super().__init__()
        self.pool = pool
        self._threads = ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "roi-align")

    def forward(
        self,
        x: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Pool the boxes of all images.

        Args:
            x: feature maps [N, C, H, W] by level, on the CPU.
            boxes: of each image [K, 4] (x1, y1, x2, y2 in its pixels).
            image_shapes: height and width of each image.

        Returns:
            [sum of K, C, h, w], image after image.
        """
        names = self.pool.featmap_names
        maps = {n: m.contiguous() if n in names else m for n, m in x.items()}
        shares = min(torch.get_num_threads(), sum(map(len, boxes)) // _FEWEST)
        if shares < 2:
            return self.pool(maps, list(boxes), image_shapes)
        parts = [torch.tensor_split(image, shares) for image in boxes]
        entered = _state_of_this_thread()

        def pooled(share: int) -> tuple[Tensor, ...]:
            own = [image[share] for image in parts]
            with entered():
                return self.pool(maps, own, image_shapes).split([len(image) for image in own])

        if self.pool.scales is None:  # what the first call finds out is the same for all
            self.pool(maps, [image[:1] for image in boxes], image_shapes)
        later = [self._threads.submit(pooled, share) for share in range(1, shares)]
        found = [pooled(0), *(each.result() for each in later)]
        return torch.cat([part for image in zip(*found, strict=True) for part in image])


def _state_of_this_thread() -> Callable[[], AbstractContextManager]:
    """Return what gives another thread this one's gradient mode and autocast."""
    is_inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    dtype, casts = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    @contextmanager
    def entered() -> Iterator[None]:
        with (
            torch.inference_mode(is_inference),
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", dtype, enabled=casts),
        ):
            yield

    return entered
