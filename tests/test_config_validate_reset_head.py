"""`reset_head` where it can do nothing is refused before anything is built."""

from __future__ import annotations

import pytest

from ladon.config import load_config, validate_config

DETECTOR = "coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml"
THREE_HEADED = "ilsvrc2012/ladon-runtime/ladon-splittable_resnet50-fp-beta0.32.yaml"


@pytest.mark.parametrize(
    ("file", "assignments", "expected"),
    [
        (THREE_HEADED, ["models.model.reset_head=true"], "the three-headed model is not trained"),
        (
            THREE_HEADED,
            ["models.model.detection.reset_head=true"],
            "belongs into the section of the whole model, under models",
        ),
        (
            DETECTOR,
            ["models.model.kwargs.backbone_config.reset_head=true"],
            "belongs into the section of the whole model, under models",
        ),
        (
            DETECTOR,
            ["models.model.reset_head=true"],
            "models.model starts from no weights (src_ckpt, kwargs.start_ckpt_file_path), so that "
            "its head is fresh anyway; leave it out, or name what the model starts from",
        ),
        (DETECTOR, ["models.model.reset_head=true", "models.model.src_ckpt=a.pt"], None),
        (DETECTOR, ["models.model.reset_head=false"], None),
        (
            DETECTOR,
            ["models.model.reset_head=true", "models.model.kwargs.start_ckpt_file_path=a.pt"],
            None,
        ),
    ],
)
def test_where_it_can_do_nothing_it_is_refused(file, assignments, expected):
    found = validate_config(load_config(f"configs/{file}", assignments=assignments))
    if expected is None:
        assert found == []
        return
    (problem,) = found
    assert problem.key == assignments[0].partition("=")[0]
    assert problem.message.startswith(expected)
