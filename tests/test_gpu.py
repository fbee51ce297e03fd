"""The same code on a GPU: what must not depend on the device, the batch or what runs ahead."""

from __future__ import annotations

import pytest
import torch

from ladon.codec import LatentCoder
from ladon.models import find_bottleneck
from ladon.models.bottleneck import encode_latent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
FAMILIES = ["classification", "detection", "segmentation"]


def tested(lab, family, name, *flags, **values):
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0
    config = lab.config(family, name, **values)
    words = ("-test_only", "-student_only", "--device", "cuda", *flags)
    assert lab.run(family, *words, config=config) == 0
    return lab.metrics(name)["models"]["student"]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_sizes_do_not_depend_on_the_batch_size(lab, family):
    found = [
        tested(lab, family, f"{family}_gpu{n}", test__test_data_loader__kwargs={"batch_size": n})
        for n in (1, 5)
    ]
    for key in ("metrics", "payload_bytes", "data_size_kb"):
        assert found[0][key] == found[1][key]


@pytest.mark.parametrize("family", FAMILIES)
def test_modes_agree_and_bf16_changes_no_payload(lab, family):
    full = tested(lab, family, f"{family}_gpu_full")
    encode = tested(lab, family, f"{family}_gpu_encode", "--evaluation", "encode")
    half = tested(lab, family, f"{family}_gpu_bf16", "--precision", "bf16")
    assert full["metrics"] == encode["metrics"]
    assert full["payload_bytes"] == encode["payload_bytes"] == half["payload_bytes"]


def test_a_latent_is_coded_as_on_the_cpu():
    from test_models import coded

    model = coded(channels=24)
    images = torch.randn(3, 3, 96, 96) * 3
    latent = encode_latent(model.bottleneck_layer.encoder, images).detach()
    on_cpu = LatentCoder(find_bottleneck(model).entropy_bottleneck)
    payloads = on_cpu.encode(latent)
    on_gpu = LatentCoder(find_bottleneck(model.cuda()).entropy_bottleneck)
    assert on_gpu.encode(latent.cuda()) == payloads
    decoded = on_gpu.decode(payloads, latent.shape[-2:])
    assert decoded.is_cuda
    assert torch.equal(decoded.cpu(), on_cpu.decode(payloads, latent.shape[-2:]))


def test_training_runs(lab):
    config = lab.config(
        "classification",
        "gpu_training",
        models__student_model__dst_ckpt=str(lab.folder / "gpu.pt"),
    )
    flags = ("-student_only", "--device", "cuda", "--precision", "bf16")
    assert lab.run("classification", *flags, config=config) == 0
    assert lab.metrics("gpu_training")["models"]["student"]["payload_bytes"]["n"] == 12
