"""What the parts of a model cost: parameters, multiply-adds, bytes, time.

Multiply-adds (MACs) are half of what `torch.utils.flop_counter` counts: it takes a multiply-add of
a matrix product or convolution for two operations, as hardware does, where the field's tables mean
one. Elementwise layers, pooling and RoIAlign are not counted, and neither is entropy coding.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ladon.backbones import FAMILIES, family_with
from ladon.bottlenecks import known_bottleneck
from ladon.bottlenecks.entropy import entropy_models
from ladon.choices import HEADS
from ladon.edge.fitting import Fitting
from ladon.measure.clock import Clock
from ladon.measure.summary import Summary
from ladon.models.inference import inference
from ladon.models.ladon import ThreeHeadedLadon
from ladon.models.precision import forward_only
from ladon.split.model import SplitModel

ENCODER, CODER, DECODER, BODY = "encoder", "entropy model", "decoder", "body"
DEFAULT_SIDE = 416
"""The paper's images; of models that take any size."""
_STAGES = {
    ENCODER: ("analysis",),
    CODER: ("coding", "decoding"),
    DECODER: ("synthesis",),
    BODY: ("body",),
}
_WARM_UP = 2
_TRAINING_ONLY = ("aux_classifier",)


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: 'encoder', 'entropy model', 'decoder', 'body' or a head's; or of a whole model.
        side: where it runs: 'device', 'server' or 'both'.
        parameters: numbers that were learnt.
        macs: multiply-adds for an image.
        num_bytes: size of a file with its tensors, tables included, as `torch.save` writes it.
        seconds: for an image; None where it was not timed.
    """

    name: str
    side: str
    parameters: int
    macs: int
    num_bytes: int
    seconds: Summary | None = None


def modules_of(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Return a split model's modules by its parts; what only trains belongs to none.

    Args:
        network: with a bottleneck of a known kind.
    """
    bottleneck = known_bottleneck(network)
    assert bottleneck is not None  # a SplitModel has one
    ancestors, parent = [network], network
    path = next(name for name, module in network.named_modules() if module is bottleneck)
    for name in path.split(".")[:-1]:
        parent = getattr(parent, name)
        ancestors.append(parent)
    family = family_with({name for name, _ in parent.named_children()})
    stages = family.stages if family is not None else _stages_of_part(parent)
    body = [getattr(parent, name) for name in stages if hasattr(parent, name)]
    parts: dict[str, list[nn.Module]] = {
        ENCODER: list(bottleneck.transforms),
        CODER: list(entropy_models(bottleneck).values()),
        DECODER: [bottleneck.synthesis],
        BODY: body,
    }
    return parts | _heads_of(network, ancestors, [bottleneck, *body])


def _stages_of_part(parent: nn.Module) -> tuple[str, ...]:
    """Return the stages of a body that is cut short: a family's first ones."""
    names = {name for name, _ in parent.named_children()}
    best = max(FAMILIES.values(), key=lambda family: len(names & set(family.stages)))
    return tuple(name for name in best.stages if name in names)


def _heads_of(
    network: nn.Module, ancestors: list[nn.Module], taken: list[nn.Module]
) -> dict[str, list[nn.Module]]:
    if isinstance(network, ThreeHeadedLadon):
        return {
            "classification": [getattr(network, name) for name in network.family.head],
            "detection": [network.fpn, network.rpn, network.roi_heads],
            "segmentation": [network.classifier],
        }
    rest = [
        child
        for ancestor in ancestors
        for name, child in ancestor.named_children()
        if name not in _TRAINING_ONLY and all(child is not m for m in (*taken, *ancestors))
    ]
    return {"head": rest}


def count_macs(
    parts: Mapping[str, Iterable[nn.Module]], run: Callable[[], Any]
) -> tuple[dict[str, int], int]:
    """Return the multiply-adds of parts and of everything while something runs.

    Args:
        parts: modules by name; none within another.
        run: what is counted.
    """
    counter, found = FlopCounterMode(display=False), dict.fromkeys(parts, 0)
    starts: dict[nn.Module, int] = {}

    def before(module: nn.Module, _inputs: Any) -> None:
        starts[module] = counter.get_total_flops()

    with ExitStack() as hooks, torch.no_grad(), counter:
        for name, modules in parts.items():

            def after(module: nn.Module, _inputs: Any, _output: Any, name: str = name) -> None:
                found[name] += counter.get_total_flops() - starts.pop(module)

            for module in modules:
                hooks.callback(module.register_forward_pre_hook(before).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        run()
    return {name: flops // 2 for name, flops in found.items()}, counter.get_total_flops() // 2


def file_size(modules: Iterable[nn.Module]) -> int:
    """Return the size of a file with the tensors of some modules, as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save([module.state_dict() for module in modules], buffer)
    return buffer.tell()


def num_parameters(modules: Iterable[nn.Module]) -> int:
    """Return how many numbers some modules have learnt, each once; entropy models' included."""
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(parameters.values())


def profile_parts(network: nn.Module, values: np.ndarray) -> list[Part]:
    """Profile the parts of a split model, untimed.

    Args:
        network: in eval mode with its tables, and not made fast for evaluation: fused layers
            cannot be counted.
        values: [3, H, W] float32 in 0..1, or normalised where the model doesn't do it.
    """
    parts, image = modules_of(network), torch.from_numpy(values)
    images = [image] if hasattr(network, "transform") else image[None]
    asked = {"heads": HEADS} if isinstance(network, ThreeHeadedLadon) else {}
    macs, _ = count_macs(parts, lambda: network(images, **asked))
    sides = {ENCODER: "device", CODER: "both"}
    return [
        Part(
            name,
            sides.get(name, "server"),
            num_parameters(modules),
            macs[name],
            file_size(modules),
        )
        for name, modules in parts.items()
    ]


def profile_whole(name: str, network: nn.Module, run: Callable[[], Any], repeats: int) -> Part:
    """Profile a model that is not split; it is timed as an evaluation runs it.

    Args:
        name: of it.
        network: in eval mode.
        run: runs it on an image.
        repeats: timed ones, after two that are not.
    """
    _, macs = count_macs({}, run)
    times = []
    with inference(network), forward_only(torch.device("cpu")):
        for _ in range(repeats + _WARM_UP):
            clock = Clock()
            with clock.stage(name):
                run()
            times.append(clock.seconds[name])
    kept = [module for child, module in network.named_children() if child not in _TRAINING_ONLY]
    seconds = Summary.of(times[_WARM_UP:])
    return Part(name, "server", num_parameters(kept), macs, file_size(kept), seconds)


def time_parts(model: SplitModel, image: Image.Image, repeats: int) -> dict[str, Summary]:
    """Return the seconds of a split model's parts, the two halves of coding together.

    Args:
        model: the model.
        image: mode 'RGB'.
        repeats: timed ones, after two that are not.
    """
    rounds = []
    for _ in range(repeats + _WARM_UP):
        clock = Clock()
        model.answer(model.encode(image, on_stage=clock.add), on_stage=clock.add)
        rounds.append(clock.seconds)
    rounds = rounds[_WARM_UP:]
    names = {**_STAGES, **{head: (head,) for head in HEADS}}
    return {
        part: Summary.of([sum(r.get(stage, 0.0) for stage in stages) for r in rounds])
        for part, stages in names.items()
        if any(stage in rounds[0] for stage in stages)
    }


def default_size(fitting: Fitting) -> tuple[int, int]:
    """Return the height and width of the images that a model is made for."""
    if fitting.crop is not None:
        return fitting.crop
    side = DEFAULT_SIDE
    return (side, side) if fitting.resize is None else fitting.resize.target(side, side)


def sample_picture(size: tuple[int, int]) -> Image.Image:
    """Return a seeded picture of a size: soft blobs, which code as photographs do, not as noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
