"""Runs that start from weights of other classes: trained, tested, resumed, refused."""

from __future__ import annotations

import re
import shutil

import pytest
from refusals import STUDENT, TEST_STUDENT, line_of

from ladon.models.checkpoint import read_checkpoint
from ladon.models.describe import describe
from ladon.report.runs import collect_runs
from ladon.report.tables import result_tables

FIVE = ["four", "one", "three", "two", "zero"]  # as their folders are sorted
TEACHER, STUDENTS = "models__teacher_model", "models__student_model"
KD = "train__stage2__criterion__kwargs__sub_terms__kd__criterion__kwargs__alpha"


@pytest.fixture
def five(own_lab, own_data):
    """A lab whose data have five classes, of other names than the ten of the shared teacher."""
    for split in ("train", "val"):
        for digit in range(5, 10):
            shutil.rmtree(own_data / split / str(digit))
        for digit, name in enumerate(("zero", "one", "two", "three", "four")):
            folder = own_data / split / str(digit)
            if folder.is_dir():
                folder.rename(folder.with_name(name))
    own_lab.checkpoint("classification").unlink()
    return own_lab


def of_five(lab, name="five", *, is_reset=True, **values):
    """The student's recipe for five classes; teacher and student start from the shared teacher."""
    chosen = {KD: 1.0}
    for model in ("teacher_model", "student_model"):
        chosen[f"models__{model}__kwargs__num_classes"] = 5
        if is_reset:
            chosen[f"models__{model}__reset_head"] = True
    return lab.config("classification", name, **chosen | values)


def test_a_teacher_of_ten_classes_starts_a_student_of_five(five, own_data):
    config = of_five(five)
    assert five.run("classification", config=config, log="five") == 0
    log, teacher = five.log("five"), five.checkpoint("teacher")
    for name in ("teacher_model", "student_model"):
        assert (
            f"models.{name}.reset_head: the class layers (fc) are left out and untrained: "
            f"{teacher} has 10 classes, the model has 5\n" in log
        )
    assert "models.teacher_model: its class layers are untrained (reset_head)" in log
    assert "but '0' to the teacher" not in log, "its names are none of this model's"
    found = read_checkpoint(five.checkpoint("classification"), "here")
    assert found.classes == FIVE
    assert found.model["fc.weight"].shape == (5, 512)
    # test, resume, inspect and report know nothing of what it started from
    assert five.run("classification", *TEST_STUDENT, config=config, log="test") == 0
    assert "reset_head" not in five.log("test")
    assert five.metrics("test")["classes"] == FIVE
    assert (
        five.metrics("test")["models"]["student"]["metrics"]
        == five.metrics("five")["models"]["student"]["metrics"]
    )
    assert five.run("classification", "--resume", config=config, log="five") == 0
    assert "classes     5 (four, one, three, two, zero)" in describe(str(found.path)).lines()
    (table,) = result_tables(collect_runs([five.folder / "logs" / "test"]))
    assert table.caption == "digit_scenes/val: 5 classes: four, one, three, two, zero"


def test_a_student_that_codes_starts_one_of_five_classes(five, lab, own_data):
    """As the released ones do: it has CDF tables, which the first stage cannot learn with."""
    values = {f"{STUDENTS}__src_ckpt": str(lab.checkpoint("classification"))}
    config = of_five(five, **values)
    assert five.run("classification", config=config, log="five") == 0
    log = five.log("five")
    assert "models.student_model.reset_head: the class layers (fc) are left out" in log
    assert "src_ckpt: its CDF tables are left out: they are built anew at epoch 1" in log
    found, source = (
        read_checkpoint(path, "here").model
        for path in (five.checkpoint("classification"), lab.checkpoint("classification"))
    )
    cdf = "bottleneck_layer.entropy_bottleneck._quantized_cdf"
    assert found[cdf].numel() > 0
    assert found[cdf].shape != source[cdf].shape or not found[cdf].equal(source[cdf])
    quantiles = cdf.replace("_quantized_cdf", "quantiles")
    assert not found[quantiles].equal(source[quantiles]), "it learnt on"


def test_a_teacher_learns_the_classes_first(five, own_data):
    """Then its answers may be read, and its names are the student's."""
    source, own = str(five.checkpoint("teacher")), str(five.folder / "ckpt" / "five.pt")
    model = {"src_ckpt": source, "dst_ckpt": own, "reset_head": True, "kwargs__num_classes": 5}
    model = {f"models__model__{key}": value for key, value in model.items()}
    model["train__train_data_loader__kwargs__batch_size"] = 8
    assert five.run("teacher", config=five.config("teacher", "teacher5", **model)) == 0
    assert f"(fc) are left out and untrained: {source} has 10 classes" in five.log("teacher5")
    assert read_checkpoint(own, "here").classes == FIVE
    student = {f"{TEACHER}__src_ckpt": own, f"{TEACHER}__reset_head": False, KD: 0.5}
    assert five.run("classification", config=of_five(five, **student), log="five") == 0
    assert "models.teacher_model.reset_head" not in five.log("five")


def test_without_being_asked_it_is_refused_with_what_to_write(five, lab, refused):
    message = refused("classification", config=of_five(five, is_reset=False))
    advice = "it has 10 classes, the model has 5: write reset_head: true in models.teacher_model"
    assert "fc.weight (10, 512) instead of (5, 512)" in message
    assert advice in message
    config = of_five(five, is_reset=False, models__teacher_model__reset_head=True)
    assert advice.replace("teacher", "student") in refused("classification", config=config)


def test_names_travel_in_all_tasks(own_lab):
    """Detection's and segmentation's labels begin with the background."""
    names = {}
    for family in ("detection", "segmentation"):
        assert own_lab.run(family) == 0
        names[family] = read_checkpoint(own_lab.checkpoint(family), "here").classes
        assert names[family] == own_lab.metrics(family)["classes"]
    assert names["detection"][0] == ""
    assert len(names["detection"]) == 11
    shown = describe(str(own_lab.checkpoint("detection"))).lines()
    assert f"classes     11 ({', '.join(names['detection'][1:6])}, …)" in shown
    assert names["segmentation"] is not None


def test_an_untrained_head_is_not_tested(five, refused):
    path = of_five(five, **{f"{STUDENTS}__dst_ckpt": None, f"{TEACHER}__reset_head": None})
    message = refused("classification", *TEST_STUDENT, config=path)
    where = f"{path}:{line_of(path, 'reset_head')}: {STUDENT}.reset_head"
    assert message.startswith(
        f"{where} leaves its class layers untrained: there is nothing to test"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({f"{STUDENTS}__reset_head": "yes"}, r"student_model\.reset_head: must be true or false"),
        (
            {f"{STUDENTS}__kwargs__org_model_ckpt_file_path_or_url": None},
            r"student_model\.reset_head: models\.student_model starts from no weights \(src_ckpt, "
            r"kwargs\.weights, kwargs\.pretrained, kwargs\.org_model_ckpt_file_path_or_url\)",
        ),
        (
            {KD: 0.5},
            r"teacher_module_path: reads the answers of a teacher whose class layers are untrained "
            r"\(models\.teacher_model\.reset_head\): .* KDLoss with alpha: 1\.0",
        ),
        (
            {f"{STUDENTS}__kwargs__skips_fc": True},
            r"student_model\.reset_head: splittable_resnet has no class layer: num_classes changes",
        ),
    ],
)
def test_wrong_uses_are_refused_before_any_work(five, refused, values, expected):
    path = of_five(five, **values)
    message = refused("classification", "--dry_run", config=path)
    assert re.search(expected, message), message


def test_a_set_with_more_classes_names_key_line_and_number(own_lab, refused):
    path = own_lab.config("teacher", models__model__kwargs__num_classes=7)
    line = line_of(path, "num_classes: 7")
    assert refused("teacher", config=path).endswith(
        "but the model has 7; remove folders or set models.model.kwargs.num_classes in "
        f"{path}:{line} to 10"
    )
