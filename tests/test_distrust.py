"""Files and downloads that would do more than hold data."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
from email.message import Message
from pathlib import Path

import pytest
import torch
from data_config.helpers import load
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ladon.distrust import UNCHECKED, known_sha256, running_nothing
from ladon.errors import CheckpointError, ConfigError
from ladon.models import build_model
from ladon.models.checkpoint import read_checkpoint


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A network that sends one file whatever is asked for; an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(UNCHECKED, raising=False)
    sent = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, sent)

    def urlopen(request, *_, **__):
        answer = io.BytesIO(sent.getvalue())
        answer.info = Message
        return answer

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    return hashlib.sha256(sent.getvalue()).hexdigest()


def test_a_download_with_its_sha256_is_taken(served):
    for url in (
        f"https://host/x.pt#sha256={served}",
        f"https://host/y-{served[:8]}.pt",
        f"https://host/y-{served[:8]}.pt",  # the second time from the cache
    ):
        found = read_checkpoint(url, "models.model.src_ckpt")
        assert torch.equal(found.model["weight"], torch.ones(2))


def test_a_download_with_another_sha256_is_refused_also_from_the_cache(served):
    wrong = "0" * 64
    for url in (f"https://host/x.pt#sha256={wrong}", "https://host/x-01234567.pt"):
        with pytest.raises(CheckpointError, match=r"here: .* is not the file that is meant: inval"):
            read_checkpoint(url, "here")
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    assert list(cache.iterdir()) == []
    (cache / "x.pt").write_text("of somebody else")
    with pytest.raises(CheckpointError, match=r"x\.pt: its SHA-256 begins with .*, not with 0"):
        read_checkpoint(f"https://host/x.pt#sha256={wrong}", "here")


def test_a_download_of_which_nothing_is_known_is_refused_unless_asked_for(served, monkeypatch):
    with pytest.raises(CheckpointError, match=r"x\.pt is not downloaded: nothing says which file"):
        read_checkpoint("https://host/x.pt", "here")
    monkeypatch.setenv(UNCHECKED, "1")
    assert read_checkpoint("https://host/x.pt", "here").model.keys() == {"weight"}


def test_what_stands_behind_a_url_is_a_sha256():
    digits = "ab" * 32
    assert known_sha256(f"https://host/x.pt#sha256={digits}") == digits
    assert known_sha256("https://host/x-b556d3b4.pth") == "b556d3b4"
    assert known_sha256("https://host/a-b556d3b4.d/x.pth") is None
    assert known_sha256("https://host/x-b556d3.pth") is None
    with pytest.raises(CheckpointError, match="must stand sha256= and 64 digits"):
        known_sha256("https://host/x.pt#sha256=12")


def test_weights_of_a_library_are_checked(served):
    """torchvision's builder asks for it by itself; what came is another file."""
    section = {"key": "mobilenet_v2", "kwargs": {"weights": "IMAGENET1K_V1"}}
    with pytest.raises(
        CheckpointError, match=r"mobilenet_v2-b0353104\.pth is not the file that is"
    ):
        build_model(section, "classification", "models.model")


def test_a_library_that_does_not_check_is_made_to(served):
    """torchdistill's own files have no hash in their name."""
    section = {"key": "densenet_bc_k12_depth100", "kwargs": {"num_classes": 10, "pretrained": True}}
    with pytest.raises(CheckpointError, match="is not downloaded: nothing says which file"):
        build_model(section, "classification", "models.model")


def test_timms_hub_is_not_asked_by_itself(served, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    section = {"key": "convnext_atto", "kwargs": {"pretrained": True}}
    with pytest.raises(CheckpointError, match=f"set {UNCHECKED}=1 to take what timm's hub has"):
        build_model(section, "classification", "models.model")
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_what_a_library_unpickles_is_torchs_allow_list(tmp_path):
    file, canary = tmp_path / "trap.pt", tmp_path / "canary"
    torch.save({"weight": Trap(canary)}, file)
    with running_nothing(), pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(file, weights_only=False)
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists(), "it is as before outside"


def test_a_person_who_wants_the_opposite_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with running_nothing():
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    with running_nothing():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


def hostile_tar(path: Path, kind: str) -> None:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../outside" if kind == "above" else "link")
        if kind == "absolute":
            member.name = str(path.parent.parent / "outside")
        if kind in ("link", "hard link"):
            member.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
            member.linkname = "../../outside"
        tar.addfile(member)
        if kind == "link":  # and through it
            inner = tarfile.TarInfo("link/file")
            inner.size = 2
            tar.addfile(inner, io.BytesIO(b"hi"))


@pytest.mark.parametrize("kind", ["above", "absolute", "link", "hard link"])
def test_an_archive_stays_in_its_folder(tmp_path, monkeypatch, kind):
    """torchvision extracts what it finds; the archive is there, so nobody fetches it."""
    root = tmp_path / "in" / "data"
    root.mkdir(parents=True)
    hostile_tar(root / "voc.tar", kind)
    md5 = hashlib.md5((root / "voc.tar").read_bytes()).hexdigest()
    entry = {**DATASET_YEAR_DICT["2012"], "filename": "voc.tar", "md5": md5}
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)
    before = sorted(tmp_path.rglob("*"))
    text = f"""
datasets:
  x: !import_call
    key: torchvision.datasets.VOCSegmentation
    init: {{kwargs: {{root: {root}, download: true}}}}
"""
    config = load(tmp_path, text)
    with pytest.raises(ConfigError, match=r"c\.yaml:\d+: building .* failed: .*Error: "):
        config.build(config.section("datasets"))
    outside = [path for path in tmp_path.rglob("*") if root not in path.parents]
    assert sorted({*outside, *before} - {tmp_path / "c.yaml"}) == before


def test_no_network_is_still_one_line(served, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(CheckpointError, match="here: cannot download https://"):
        read_checkpoint("https://host/x-01234567.pt", "here")
