"""The base of families of backbones: names, stages, channels, and how its networks are cut.

Nothing here or in the families' files loads torch before it is needed: reports ask them, too.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

BOTTLENECK = "bottleneck_layer"
"""The bottleneck's name in every splittable model, sc2bench's and this library's."""

# of the three-headed model's other parts, beside which a family's stand
_TAKEN = ("transform", "fpn", "rpn", "roi_heads", "classifier")


@dataclass(frozen=True)
class Member:
    """One network of a family.

    Attributes:
        label: what a person calls it, such as `ResNet-50`.
        channels: delivered at the split point (so by the bottleneck), then by each stage behind.
        blocks: number of modules in each stage behind the split point.
    """

    label: str
    channels: tuple[int, ...]
    blocks: tuple[int, ...]


class Family(ABC):
    """A family whose splittable model sc2bench builds.

    Attributes:
        name: of the family.
        key: its splittable model's in YAML.
        argument: which names the member in YAML.
        default: the member that is meant where YAML names none.
        library: the module with a function of each member's name, which builds the plain network.
        split: part of the plain network that ends where the bottleneck ends; the bottleneck takes
            the place of it and of all before it.
        stages: the parts behind it, in the order they run, as the splittable model names them.
        head: the parts behind those, which make logits of the last stage's features.
        members: the networks, by the name of their function.
        weight_files: pretrained weights that were published as files and that the library fetches
            otherwise today: name in torch's cache, by member.
        freezes_batch_norm: whether a detector's backbone holds FrozenBatchNorm2d.
        shown_by_key: whether reports call a run's own network by its function's name.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    argument: ClassVar[str]
    default: ClassVar[str]
    library: ClassVar[str]
    split: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]
    head: ClassVar[tuple[str, ...]] = ("avgpool", "fc")
    members: ClassVar[dict[str, Member]]
    weight_files: ClassVar[dict[str, str]] = {}
    freezes_batch_norm: ClassVar[bool] = False
    shown_by_key: ClassVar[bool] = False

    @abstractmethod
    def width(self, state: Mapping[str, Tensor], stage: str) -> int | None:
        """Return the channels that a stage delivers; None if it is none of this family's.

        Args:
            state: a model's tensors by name.
            stage: the stage's path in it, such as `backbone.body.layer2`.
        """

    def folds(self) -> Mapping[type[nn.Module], tuple[tuple[str, str], ...]]:
        """Return names of convolutions and the normalisations that surely follow them.

        By the class of the module whose children they are. Only classes whose forward is known to
        run each convolution and then its normalisation, and nothing else in between: the order of
        names proves nothing. In an `nn.Sequential` they are found without this.
        """
        return {}

    def builder(self, member: str) -> Callable[..., nn.Module] | None:
        """Return the function that builds a member's plain network; None if there is none."""
        found = getattr(importlib.import_module(self.library), member, None)
        return found if callable(found) else None

    def chosen(self, kwargs: Mapping[str, Any]) -> Any:
        """Return the member that a splittable model's arguments name."""
        return kwargs.get(self.argument) or self.default

    def target_channels(self, member: str) -> int | None:
        """Return how many channels a bottleneck must deliver; None if the member is not known."""
        known = self.members.get(member)
        return None if known is None else known.channels[0]

    def recognise(self, state: Mapping[str, Tensor], body: str) -> str | None:
        """Return the member that a splittable model's tensors are of, or None.

        Args:
            state: the tensors by name.
            body: what stands before the stages' names, such as `backbone.body.`.
        """
        width = self.width(state, f"{body}{self.stages[0]}")
        if width is None:
            return None
        blocks = tuple(_num_modules(state, f"{body}{stage}.") for stage in self.stages)
        for name, member in self.members.items():
            if (member.blocks, member.channels[1]) == (blocks, width):
                return name
        return None


class CutFamily(Family):
    """A family whose splittable model is built here, of the parts that `cut` gives.

    Members may also be functions that a user's module registers at torchdistill's `register_model`.
    """

    @abstractmethod
    def cut(self, plain: Any) -> Mapping[str, nn.Module]:
        """Return a plain network's parts by name, in the order in which they run.

        All of it: what is before the split point, `split`, `stages`, and `avgpool` and `fc`, which
        are its head (`fc` may be a sequence; before an `nn.Linear` comes a flattening).
        """

    def builder(self, member: str) -> Callable[..., nn.Module] | None:
        """Return the function that builds a member's plain network; None if there is none."""
        own = importlib.import_module("torchdistill.models.registry").MODEL_DICT
        return super().builder(member) or own.get(member)


FAMILIES: dict[str, Family] = {}
"""The known families by name, the paper's first."""


def register(family: type[Family]) -> type[Family]:
    """Make a family known; a class decorator.

    Raises:
        ValueError: it names a part as the three-headed model names another one.
    """
    taken = sorted({BOTTLENECK, *_TAKEN} & {*family.stages, *family.head})
    if taken:
        raise ValueError(f"{family.name}: {taken[0]} is the three-headed model's: name it anew")
    FAMILIES[family.name] = family()
    return family


def family_of(key: str) -> Family | None:
    """Return the family of a model's key: of a splittable one, or of a member itself."""
    families = FAMILIES.values()
    return next((f for f in families if f.key == key), None) or _family_of_member(key)


def _family_of_member(name: str) -> Family | None:
    return next((f for f in FAMILIES.values() if name in f.members), None)


def is_member(name: Any) -> bool:
    """Whether a name is that of a known network."""
    return isinstance(name, str) and _family_of_member(name) is not None


def member_of(section: Mapping[str, Any]) -> str:
    """Return the name of a classification model's network: its own key, or whose part it has.

    Args:
        section: the model's section of a config.
    """
    family = family_of(section["key"])
    if family is None or family.key != section["key"]:
        return section["key"]
    return family.chosen(section.get("kwargs") or {})


def backbone_name(section: Mapping[str, Any]) -> str:
    """Return the name of the network in any task's model: `resnet50`; of others the model's key.

    Args:
        section: the model's section of a config.
    """
    inner = (section.get("kwargs") or {}).get("backbone_config") or section.get("classification")
    found = member_of(inner) if inner and inner.get("key") else member_of(section)
    return found if isinstance(found, str) else section["key"]


def family_with(parts: Collection[str]) -> Family | None:
    """Return the first family all of whose stages are among a model's parts, or None."""
    return next((f for f in FAMILIES.values() if set(f.stages) <= set(parts)), None)


def stage_names() -> set[str]:
    """Return the names of all families' stages, what ends at the split point included."""
    return {name for family in FAMILIES.values() for name in (family.split, *family.stages)}


def head_names() -> list[str]:
    """Return the names of what gives the logits, in all families, each once."""
    return list(dict.fromkeys(family.head[-1] for family in FAMILIES.values()))


def label_of(name: str) -> str:
    """Return what a person calls a network (`ResNet-50`); a name that is not known stays."""
    family = _family_of_member(name)
    return name if family is None else family.members[name].label


def shown_name(name: str) -> str:
    """Return what reports call the network of a run of one's own."""
    family = _family_of_member(name)
    return name if family is None or family.shown_by_key else label_of(name)


def recognise(state: Mapping[str, Tensor], body: str) -> str | None:
    """Return the network that a model's tensors are of, or None; see `Family.recognise`."""
    found = (family.recognise(state, body) for family in FAMILIES.values())
    return next((name for name in found if name is not None), None)


def _num_modules(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({n[len(prefix) :].split(".", 1)[0] for n in state if n.startswith(prefix)})
