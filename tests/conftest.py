"""What all tests share: one thread a process (tests run in parallel), tiny data, quiet logs."""

from __future__ import annotations

import logging
import os
import shutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("LADON_DATA_ROOT", None)

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """Runs in the same process set up logging; take their handlers off again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _modules_beside_configs_as_they_were():
    """A module that one test's config found beside itself is not another's."""
    yield
    own_modules = sys.modules.get("ladon.config.core.own_modules")
    if own_modules is not None and own_modules._searched:
        from ladon.config.validate.registries import forget_users

        forget_users()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Root of a tiny set of digit scenes: 40 to train on, 12 to validate on."""
    from ladon.data.digits import make_digit_scenes

    root = tmp_path_factory.mktemp("data")
    make_digit_scenes(root, num_train=40, num_val=12)
    return root


@pytest.fixture(scope="session")
def lab(tmp_path_factory, scenes):
    """A lab with a teacher and a classifier trained for an epoch or two."""
    from tiny import TinyExperiment

    made = TinyExperiment(tmp_path_factory.mktemp("lab"), scenes)
    assert made.run("teacher") == 0
    assert made.run("classification") == 0
    return made


@pytest.fixture
def own_lab(lab, tmp_path):
    """A lab of the test's own, with the shared teacher and classifier."""
    from tiny import TinyExperiment

    made = TinyExperiment(tmp_path / "own", lab.data_root)
    (made.folder / "ckpt").mkdir()
    for family in ("teacher", "classification"):
        made.checkpoint(family).symlink_to(lab.checkpoint(family))
    return made


@pytest.fixture
def own_data(own_lab, tmp_path):
    """The lab's data as a copy that a test may damage."""
    copy = tmp_path / "data"
    shutil.copytree(own_lab.data_root, copy)
    own_lab.data_root = copy
    return copy / "digit_scenes"


@pytest.fixture
def refused(own_lab, capsys):
    """Runs a family's script, which must fail as promised; returns the message."""

    from refusals import message_of

    def run(family: str, *flags: str, config=None, code: int = 2) -> str:
        capsys.readouterr()
        found = own_lab.run(family, *flags, config=config, log="refused")
        shown = capsys.readouterr().err
        assert found == code, shown
        return message_of(shown, own_lab.folder / "logs" / "refused.txt")

    return run
