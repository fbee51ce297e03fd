"""Sizes of payloads, as they are and as the paper's repository measures them."""

from __future__ import annotations

import hashlib
import pickle  # nosec B403 # writes only, to measure as it was published
import sys
import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ladon.tensors import is_finite

KIB = 1024
# Python 3.14 changed pickle's default; the published sizes were taken with protocol 4
_PROTOCOL = 4


def published_size(strings: Sequence[bytes], shape: torch.Size) -> float:
    """Return data size of one image in KiB as the paper's repository measures it.

    That is the pickled `{'strings': [[payload]], 'shape': torch.Size([H, W])}` (sc2bench's
    FileSizeAnalyzer): of a payload of one part 103 to 115 bytes more than that.

    Args:
        strings: the payload's parts.
        shape: (h, w) that goes with them.
    """
    content = {"strings": [[string] for string in strings], "shape": torch.Size(shape)}
    return sys.getsizeof(pickle.dumps(content, _PROTOCOL)) / KIB


class PayloadSizes(threading.local):
    """Sizes of the payloads that this thread's model calls encoded, in the batch's order.

    Attributes:
        nbytes: bytes of each image's payload.
        published_kib: each image's published data size in KiB.
        by_part: bytes of each image's payload by its parts' names.
        digests: SHA-256 of each image's payload.
    """

    def __init__(self) -> None:
        self.nbytes: list[int] = []
        self.published_kib: list[float] = []
        self.by_part: list[dict[str, int]] = []
        self.digests: list[bytes] = []
        self._finite: Tensor | None = None

    def note(self, latent: Tensor) -> None:
        """Look, on its device, whether a latent is finite; nobody waits for the answer."""
        finite = is_finite(latent)
        self._finite = finite if self._finite is None else self._finite & finite

    def pop_finite(self) -> Tensor | None:
        """Return whether this thread's latents since its last call were finite, a bool scalar."""
        finite, self._finite = self._finite, None
        return finite

    def add(
        self,
        strings: Mapping[str, Sequence[bytes]],
        shape: torch.Size,
        *,
        is_estimate: bool = False,
    ) -> None:
        """Record the payloads of a batch.

        Args:
            strings: of each part those of all images.
            shape: (h, w) that goes with them.
            is_estimate: only their lengths mean something.
        """
        for image in zip(*strings.values(), strict=True):
            self.nbytes.append(sum(map(len, image)))
            self.published_kib.append(published_size(image, shape))
            if not is_estimate:
                self.digests.append(hashlib.sha256(b"".join(image)).digest())
            self.by_part.append(dict(zip(strings, map(len, image), strict=True)))

    def pop(self) -> tuple[list[int], list[float]]:
        """Return the sizes that this thread recorded since its last call, and forget them."""
        sizes = self.nbytes, self.published_kib
        self.nbytes, self.published_kib, self.by_part, self.digests = [], [], [], []
        return sizes
