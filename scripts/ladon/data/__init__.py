"""Datasets, transforms and loaders.

Importing this package registers with torchdistill what users' configs name by a bare key: the
collate functions and the batch sampler here, and those of `sc2bench.transforms`.
"""

import torchvision.datasets  # noqa: F401  torchdistill's registry lists this module's classes

# isort: split
import sc2bench.transforms  # noqa: F401

from ladon.data import collate, samplers  # noqa: F401
