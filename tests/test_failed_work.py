"""Work that fails although the input is sound: exit code 1, and nothing lost."""

from __future__ import annotations

import contextlib
import resource

import pytest
import torch

from ladon.errors import LadonError
from ladon.models.checkpoint import write_checkpoint


@contextlib.contextmanager
def disk_for(nbytes: int):
    """Lets this process write no file longer than this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_checkpoint(refused, own_lab):
    path = own_lab.folder / "ckpt" / "best.pt"
    with disk_for(1_000_000):
        message = refused("teacher", "--set", f"models.model.dst_ckpt={path}", code=1)
    assert message.startswith(f"cannot write checkpoint {path}: ")
    assert list(path.parent.glob("*best*")) == [], "nothing half-written stays"


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    path = tmp_path / "a.pt"
    model = torch.nn.Linear(300, 300)
    write_checkpoint(path, model)
    before = path.read_bytes()
    with disk_for(10_000), pytest.raises(LadonError, match=f"cannot write checkpoint {path}"):
        write_checkpoint(path, model)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("what", ["parent is a file", "is a folder"])
def test_an_unwritable_checkpoint_path_is_found_before_training(refused, own_lab, what):
    path = own_lab.folder / "x" / "best.pt"
    if what == "is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("a file")
    message = refused("teacher", "--set", f"models.model.dst_ckpt={path}")
    assert str(path) in message
    assert "models.model.dst_ckpt" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_a_run_folder_that_goes_away_is_named(refused, own_lab, monkeypatch):
    """The disk under the logs fails after the first epoch."""
    from ladon.engine.run import Run

    original = Run.log_epoch

    def log_epoch(self, record):
        (self.folder / "metrics.jsonl").mkdir()
        original(self, record)

    monkeypatch.setattr(Run, "log_epoch", log_epoch)
    message = refused("teacher", code=1)
    assert message.startswith(f"cannot write {own_lab.folder}/logs/refused/metrics.jsonl: ")
