"""Configs and flags that cannot be used: one message that names file, line, key or flag."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from refusals import STUDENT, TEST_STUDENT, edited, line_of, message_of

from ladon.cli import main
from ladon.tasks import TASKS


def test_missing_config_names_the_file_and_a_near_one(refused, own_lab):
    path = own_lab.config("teacher", "teacher_a")
    message = refused("teacher", config=path.with_name("teachr_a.yaml"))
    assert message == (
        f'config file not found: {path.parent}/teachr_a.yaml; did you mean "teacher_a.yaml"?'
    )
    assert not (own_lab.folder / "logs").exists(), "nothing is written before the config is read"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train:\n  stage1: {num_epochs: 2\n", ":"),
        (b"", "the file is empty"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"\xff\xfe\x00b\x00e", "not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "not UTF-8 text"),
        (b"a: !!python/object/apply:os.system ['touch owned']\n", ":1: tag !!python/.* is refused"),
    ],
)
def test_a_file_that_is_no_config_is_named(
    refused, own_lab, tmp_path, monkeypatch, content, expected
):
    monkeypatch.chdir(tmp_path)
    path = own_lab.folder / "broken.yaml"
    path.write_bytes(content)
    assert re.search(f"^{re.escape(str(path))}.*{expected}", refused("teacher", config=path))
    assert not (tmp_path / "owned").exists()


def test_a_folder_is_no_config(refused, own_lab):
    assert "is a folder" in refused("teacher", config=own_lab.folder)


def test_yaml_syntax_error_names_file_and_line(refused, own_lab):
    path = own_lab.config("teacher", "broken")
    path.write_text(f"{path.read_text()}test:\n  test_data_loader: [a\n  b: 1\n")
    line = len(path.read_text().splitlines())
    assert refused("teacher", config=path).startswith(f"{path}:{line}: ")


def test_unknown_key_names_file_line_and_the_likely_key(refused, own_lab):
    path = edited(own_lab.config("teacher", "broken"), "num_epochs", "num_epoch")
    message = refused("teacher", config=path)
    line = line_of(path, "num_epoch:")
    assert message == f'{path}:{line}: train.num_epoch: unknown key; did you mean "num_epochs"?'


def test_several_problems_are_all_reported(refused, own_lab):
    path = edited(own_lab.config("teacher", "broken"), "num_epochs", "num_epoch")
    path.write_text(f"{path.read_text()}beta: -1\ntets: {{}}\n")
    lines = refused("teacher", "--set", "train.optimizer.key=AdmW", config=path).splitlines()
    assert len(lines) == 4
    assert [line for line in lines if line.startswith(f"{path}:{line_of(path, 'beta')}: beta: ")]
    assert any(line.startswith("--set: train.optimizer.key: ") for line in lines)
    assert any("tets: unknown key" in line for line in lines)


@pytest.mark.parametrize("value", ["0", "-1", "0.0", "high", "true", ".nan", ".inf", "[1]"])
@pytest.mark.parametrize("by", ["file", "set", "json"])
def test_beta_must_be_a_number_above_zero(refused, own_lab, value, by):
    if by == "json" and value in (".nan", ".inf"):
        value = {".nan": "NaN", ".inf": "Infinity"}[value]
    path = own_lab.config("classification", "broken")
    where = {"file": f"{path}:", "set": "--set: ", "json": "--json: "}[by]
    if by == "file":
        edited(path, "beta: 0.32", f"beta: {value}")
    flags = {
        "file": [],
        "set": ["--set", f"beta={value}"],
        "json": ["--json", f'{{"beta": {json.dumps(value) if value == "high" else value}}}'],
    }[by]
    message = refused("classification", *flags, config=path)
    (own,) = [line for line in message.splitlines() if line.startswith(where)]
    assert "beta: must be a number above 0, not " in own


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--set", "train.num_epochs"], "--set train.num_epochs: write it as PATH=VALUE"),
        (["--set", "=3"], "--set =3: the path before the = is empty"),
        (["--set", "beta.high=3"], 'no "high" in beta: beta is '),
        (["--set", "train.num_epochs=[1"], "--set train.num_epochs: "),
        (["--set", "test.test_data_loader.kwargs.batch_size=0"], "batch_size"),
        (["--set", "test.test_data_loader.kwargs.batch_size=two"], "batch_size"),
        (["--set", "test.test_data_loader.dataset_id=digit_scenes/vla"], '"digit_scenes/val"'),
        (["--set", "models.teacher_model.key=[1]"], "key: must be the name of a classification"),
        (["--set", "models.teacher_model.kwargs=5"], "kwargs: must be a mapping, not a number"),
        (["--set", "test=null"], "has no test.test_data_loader: nothing to test on"),
        (["--set", "train=null"], "has no train section; add -test_only to test"),
        (
            ["--set", "models.teacher_model.kwargs.num_classes=-3"],
            "num_classes: must be a whole number",
        ),
        (["--set", "train.stage1.train_data_loader.kwargs.drop_last=maybe"], "drop_last: must be"),
        (["--json", '{"models": 5}'], "--json: models: must be a mapping"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--device", "nonsense"], "--device nonsense: not a device"),
        (["--device", "mps"], "--device mps: not a device"),
        (["--device", "meta"], "--device meta: not a device"),
        (["--world_size", "2"], "--world_size 2: start the processes with `torchrun"),
    ],
)
def test_unusable_flags_are_named(refused, own_lab, flags, expected):
    path = own_lab.config("classification", "flags")
    assert expected in refused("classification", *flags, config=path)


@pytest.mark.parametrize(
    ("task", "flags", "expected"),
    [
        ("image_classification", ["--json", "[1]"], "argument --json: must be a JSON object"),
        ("image_classification", ["--json", "{beta: 1}"], "argument --json: not JSON"),
        ("image_classification", ["--seed", "x"], "argument --seed: invalid int value"),
        ("image_classification", ["--seed", "-1"], "argument --seed: must be between 0 and"),
        ("image_classification", ["--seed", str(2**40)], "argument --seed: must be between 0 and"),
        ("image_classification", ["--start_epoch", "-1"], "argument --start_epoch: must be 0"),
        ("image_classification", ["--nonsense"], "unrecognized arguments: --nonsense"),
        ("object_detection", ["--iou_types", "segm"], "argument --iou_types: "),
        ("object_detection", ["--iou_types", "bbox", "segm"], "argument --iou_types: "),
        ("semantic_segmentation", ["--num_classes", "0"], "argument --num_classes: must be 1"),
        ("semantic_segmentation", ["--num_classes", "-3"], "argument --num_classes: must be 1"),
    ],
)
def test_unusable_flags_are_refused_at_once(capsys, task, flags, expected):
    with pytest.raises(SystemExit) as left:
        main(task, ["--config", "x.yaml", *flags])
    assert left.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_cuda_where_there_is_none(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused("teacher", "--device", "cuda")
    assert message.startswith("--device cuda: this machine has 0 CUDA devices; use --device cpu")


SUB_TERMS = "train.criterion.kwargs.sub_terms"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.optimizer.kwargs.betas=[0.9, 3]", "cannot set up: ValueError: Invalid beta param"),
        ("train.optimizer.kwargs.weight_decay=null", "cannot set up: TypeError: "),
        ("train.scheduler.kwargs.max_lr=[]", "cannot set up: ValueError: max_lr must have"),
        (f"{SUB_TERMS}.ce=null", "cannot set up: TypeError: "),
        (
            f"{SUB_TERMS}.ce.criterion_wrapper.kwargs.input.module_path=fc",
            "reads the output of 'fc', which train.model.forward_hook.output does not list",
        ),
    ],
)
def test_what_a_stage_cannot_be_made_of(refused, assignment, expected):
    message = refused("teacher", "--set", assignment)
    assert message.removeprefix("--set: ").startswith("train")
    assert expected in message


def test_entropy_coding_in_a_stage_that_hooks_the_bottleneck(refused):
    message = refused("classification", "--set", "train.epoch_to_update=stage1")
    assert "the criterion asks for 'output', which the models do not give" in message


def test_empty_values_of_a_stage_are_as_good_as_missing(own_lab):
    values = "{frozen_modules: null, sequential: null, forward_hook: null}"
    assert own_lab.run("teacher", "--set", f"train.model={values}") == 0


def test_out_of_memory_says_what_to_do(refused, monkeypatch):
    def predict(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr(TASKS["image_classification"], "predict", predict)
    message = refused("classification", *TEST_STUDENT, code=1)
    assert message.startswith("the memory of cpu does not suffice: lower batch_size (")


def test_log_config_prints_what_is_run(own_lab, capsys):
    flags = ["-log_config", "--set", "beta=5.12", "--json", '{"train": {"log_freq": 7}}']
    flags += ["--set", f"{STUDENT}.dst_ckpt={own_lab.checkpoint('classification')}"]
    assert own_lab.run("classification", *TEST_STUDENT, *flags) == 0
    for text in (capsys.readouterr().err, own_lab.log("classification")):
        shown = text.split("Resolved config:\n")[1]
        shown = re.split(r"^\d{4}/\d\d/\d\d ", shown, flags=re.MULTILINE)[0]
        config = yaml.load(shown, Loader=_Tagged)
        assert config["beta"] == 5.12
        assert config["train"]["log_freq"] == 7
        terms = config["train"]["stage1"]["criterion"]["kwargs"]["sub_terms"]
        assert terms["bpp"]["weight"] == 5.12, "resolved"


class _Tagged(yaml.SafeLoader):
    """Reads tagged nodes as None."""


_Tagged.add_multi_constructor("!", lambda *_: None)


def test_unwritable_log_names_the_flag(refused, own_lab, capsys):
    (own_lab.folder / "file").write_text("x")
    (own_lab.folder / "folder.txt").mkdir()
    config = own_lab.config("teacher")
    for log in ("file/log.txt", "folder.txt"):
        path = own_lab.folder / log
        code = main("image_classification", ["--config", str(config), "--run_log", str(path)])
        assert code == 2
        shown = capsys.readouterr().err
        assert message_of(shown).startswith(f"--run_log {path}: cannot be written: ")


def test_unwritable_run_folder_is_named(refused, own_lab):
    (own_lab.folder / "logs").mkdir()
    (own_lab.folder / "logs" / "refused").write_text("a file where the run folder goes")
    assert refused("teacher") == f"{own_lab.folder}/logs/refused: cannot be written: File exists"
