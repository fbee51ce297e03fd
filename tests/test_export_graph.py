"""The encoder in another runtime: the same latents but for rounding, nearly all symbols alike."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_sample_images
from students import coded, splittable
from torch import nn

from ladon.bottlenecks import find_bottleneck
from ladon.edge.encoder import run_encoder, start_session
from ladon.edge.manifest import LatentSide
from ladon.errors import LadonError
from ladon.export.graph import OPSET, TOLERANCE, export_encoder, latent_side
from ladon.models.inference import inference


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """ResNet-50's bottleneck of 24 channels, its latents spread as trained ones are; and a file."""
    model = coded(24)
    bottleneck = find_bottleneck(model)
    with torch.no_grad():
        bottleneck.analysis[-1].weight *= 30
    path = tmp_path_factory.mktemp("graph") / "encoder.onnx"
    with inference(model):
        assert export_encoder(bottleneck.analysis, path) == 24
        yield bottleneck, path


def photographs():
    """scikit-learn's two, as a classifier's encoder sees them, and noise."""
    images = [
        *load_sample_images().images,
        np.random.default_rng(0).integers(0, 256, (480, 641, 3)),
    ]
    for image in images:
        values = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
        yield ((values - 0.45) / 0.225)[None]


def test_symbols_differ_in_one_of_a_hundred_thousand_at_most(encoder):
    bottleneck, path = encoder
    medians = bottleneck.entropy_bottleneck._get_medians().detach().reshape(-1, 1, 1).numpy()
    session, differing, number, kinds = start_session(path), 0, 0, set()
    for image in photographs():
        with torch.inference_mode():
            eager = bottleneck.coding.analyse(image)[0].numpy()
        found = run_encoder(session, image.numpy())[0]
        assert np.abs(eager - found).max() <= TOLERANCE
        ours, theirs = (np.rint(latent - medians) for latent in (eager, found))
        assert np.abs(ours - theirs).max() <= 1
        differing += int((ours != theirs).sum())
        number += ours.size
        kinds |= set(np.unique(ours).tolist())
    assert number > 1_000_000
    assert len(kinds) > 20, "no test if nearly all symbols are 0"
    assert differing <= number / 100_000


def test_the_graph_takes_any_batch_and_size_and_tells_nothing_else(encoder):
    bottleneck, path = encoder
    graph = onnx.load(path)
    assert [o.version for o in graph.opset_import] == [OPSET]
    assert {initial.data_type for initial in graph.graph.initializer} == {onnx.TensorProto.FLOAT}
    assert b"site-packages" not in path.read_bytes()
    assert b".py" not in path.read_bytes()
    session = start_session(path)
    for batch, height, width in ((3, 97, 131), (1, 5, 800), (2, 224, 224)):
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            eager = bottleneck.coding.analyse(images).numpy()
        found = run_encoder(session, images.numpy())
        assert found.shape == eager.shape
        assert np.abs(found - eager).max() <= TOLERANCE


def test_encoder_and_tables_are_small(encoder):
    """What the paper boasts of: less than 1.2 MB for ResNet-50's 24 channels."""
    _, path = encoder
    assert path.stat().st_size < 600_000


def test_how_a_latent_side_follows():
    assert latent_side(find_bottleneck(splittable(4)).analysis) == LatentSide(4, -1)
    three = nn.Sequential(
        nn.Conv2d(3, 4, 7, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=3), nn.Conv2d(4, 2, 2)
    )
    rule = latent_side(three)
    assert rule is not None
    sizes = {side: three(torch.zeros(1, 3, side, 60)).shape[2] for side in (60, 101, 401, 700)}
    assert {side: rule(side) for side in sizes} == sizes
    assert latent_side(nn.AdaptiveAvgPool2d(3)) is None


class Unwritable(nn.Module):
    def forward(self, images):
        return images if images.sum() > 0 else -images


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    with pytest.raises(
        LadonError, match=r"^the encoder cannot be written as ONNX: .{9,200}…$"
    ) as refused:
        export_encoder(Unwritable(), tmp_path / "x.onnx")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
