"""Backbones: a family of networks is one file, and nothing else in the library knows its names.

A student is a network whose first layers gave way to a bottleneck (encoder, entropy bottleneck,
decoder); what stays of the network are the stages behind the split point, and its head. A family's
file says how its networks are called and how they are cut. The families here are imported below;
one of your own is a module that a config names under `dependencies`:

    from ladon.backbones import CutFamily, Member, register

    @register
    class RegNet(CutFamily):
        name = "regnet"
        key = "splittable_torchvision_regnet"    # of the student in YAML
        argument = "regnet_name"                 # which names the member in YAML
        default = "regnet_y_400mf"
        library = "torchvision.models"           # has a function of each member's name
        split = "stage1"                         # what the bottleneck takes the place of
        stages = ("stage2", "stage3", "stage4")  # what stays behind it
        members = {
            # what the split point and each stage deliver; what each stage consists of
            "regnet_y_400mf": Member("RegNetY-400MF", (48, 104, 208, 440), (3, 6, 6)),
        }

        def cut(self, plain):
            trunk = plain.trunk_output
            stages = {f"stage{n}": getattr(trunk, f"block{n}") for n in (1, 2, 3, 4)}
            return {"stem": plain.stem, **stages, "avgpool": plain.avgpool, "fc": plain.fc}

        def width(self, state, stage):
            weight = state.get(f"{stage}.block{stage[-1]}-0.proj.0.weight")
            return None if weight is None else weight.shape[0]

That is all: `splittable_torchvision_regnet` is a key for classification, for the backbone of
`faster_rcnn_model` and `deeplabv3_model`, and for the three-headed model; weights of torchvision's
network map onto it (`weights`, `org_model_ckpt_file_path_or_url`). A bottleneck must deliver the
split point's channels (its `num_target_channels` follows from them) and stride. In a distillation,
the paths of the teacher are those of the plain network (`trunk_output.block2`), the student's the
stages' (`stage2`). `metrics.json` holds the member's name; its label is shown where the module has
been imported.

A family whose splittable model sc2bench builds already is a plain `Family`, without `cut`: see
`resnest.py`. Blocks whose BatchNorm can be folded into the convolution before it are named by
`folds`. Like tasks, a family's file loads torch in its methods only: reports ask families, too.
"""

# in the order of the published results
from ladon.backbones import resnet, resnest, convnext  # noqa: F401, I001
from ladon.backbones.base import (
    BOTTLENECK,
    FAMILIES,
    CutFamily,
    Family,
    Member,
    backbone_name,
    family_of,
    family_with,
    head_names,
    is_member,
    label_of,
    member_of,
    recognise,
    register,
    shown_name,
    stage_names,
)

__all__ = [
    "BOTTLENECK",
    "FAMILIES",
    "CutFamily",
    "Family",
    "Member",
    "backbone_name",
    "family_of",
    "family_with",
    "head_names",
    "is_member",
    "label_of",
    "member_of",
    "recognise",
    "register",
    "shown_name",
    "stage_names",
]
