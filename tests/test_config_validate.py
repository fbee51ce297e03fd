"""Validation: a sound config passes; each kind of mistake is found, placed and explained."""

import sys
import types

import pytest
from data_config.helpers import GOOD, load, problems_of, write

from ladon.config import check_config, format_report, load_config, validate_config
from ladon.errors import ConfigError

STUDENT = "models.student_model"
STAGE1 = "train.stage1"
TERMS = f"{STAGE1}.criterion.kwargs.sub_terms"

DETECTION = """
    datasets:
      fake/val: !import_call {key: torchvision.datasets.FakeData}
    models:
      model:
        key: faster_rcnn_model
        kwargs:
          pretrained: false
          num_classes: 91
          min_size: 416
          max_size: 416
          in_channels_stage2: 256
          backbone_config:
            key: splittable_resnest
            kwargs:
              pretrained: false
              resnest_name: resnest269e
              bottleneck_config: {key: FPBasedResNetBottleneck, kwargs: }
            src_ckpt: x.pt
          backbone_fpn_kwargs:
            in_channels_list: [256, 512]
            analysis_config: {analyzer_configs: [{key: FileSizeAnalyzer}]}
    test:
      test_data_loader:
        dataset_id: fake/val
        sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}
        kwargs: {batch_size: 1}
"""


def good(*assignments, **overrides):
    return load_config(GOOD, assignments=assignments, overrides=overrides or None)


def found(*assignments):
    """The problems that assignments make in a sound config, without their place."""
    return [line.partition(": ")[2] for line in problems_of(good(*assignments))]


@pytest.mark.parametrize("kind", [None, "classification"])
def test_a_sound_config_has_no_problems(kind):
    assert problems_of(good(), kind) == []
    check_config(good(), kind)


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path):
    text = GOOD.read_text()
    for old, new in (
        ("optimizer:\n      key: 'SGD'", "optimzer:\n      key: 'SGD'"),
        ("num_bottleneck_channels", "num_bottleneck_chanels"),
        ("dataset_id: *fake_val\n    sampler", "dataset_id: fake/vla\n    sampler"),
        ("key: 'Adam'\n      kwargs:", "key: 'Adam'\n      kwargs: {lr_rate: 1}"),
    ):
        assert old in text
        text = text.replace(old, new)
    config = load_config(write(tmp_path, text))
    line = {word: text[: text.index(word)].count("\n") + 1 for word in ("optimzer", "lr_rate")}
    stage1 = text[: text.index("stage1:")].count("\n") + 1
    channels = text[: text.index("num_bottleneck_chanels")].count("\n") + 1
    dataset = text[: text.index("fake/vla")].count("\n") + 1
    lines = problems_of(config)
    assert lines == [
        f"c.yaml:{channels}: models.student_model.kwargs.bottleneck_config.kwargs."
        "num_bottleneck_chanels: FPBasedResNetBottleneck takes no such argument; did you mean "
        '"num_bottleneck_channels"?',
        f'c.yaml:{stage1}: train.stage1: "optimizer" is missing',
        f'c.yaml:{line["optimzer"]}: train.stage1.optimzer: unknown key; did you mean "optimizer"?',
        f"c.yaml:{line['lr_rate']}: train.stage2.optimizer.kwargs.lr_rate: Adam takes no such "
        'argument; did you mean "lr"?',
        f"c.yaml:{dataset}: test.test_data_loader.dataset_id: there is no dataset "
        '"fake/vla" under datasets; did you mean "fake/val"?',
    ]
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert str(caught.value).replace(f"{tmp_path}/", "") == "\n".join(lines)
    report = format_report(validate_config(config))
    assert report.endswith("\n5 problems in 1 file")
    assert len(report.splitlines()) == 6
    assert format_report([]) == "no problems found"
    assert format_report(validate_config(config)[:1]).endswith("\n1 problem in 1 file")


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        # names of keys, at every level
        ("tset.x=1", 'tset: unknown key; did you mean "test"?'),
        ("models.studnt={}", 'models.studnt: unknown key; did you mean "student_model"?'),
        (f"{STUDENT}.src_cpt=x", 'src_cpt: unknown key; did you mean "src_ckpt"?'),
        ("train.log_frq=1", 'train.log_frq: unknown key; did you mean "log_freq"?'),
        ("train.stge1.num_epochs=1", 'train.stge1: unknown key; did you mean "stage1"?'),
        ("train.num_epochs=1", "has no effect beside stages: set train.stage1.num_epochs"),
        (f"{STAGE1}.student.frozen_module=[]", 'did you mean "frozen_modules"?'),
        (f"{STAGE1}.student.forward_hook.outputs=[]", 'did you mean "output"?'),
        (f"{STAGE1}.scheduler.step=1", "scheduler.step: unknown key"),
        (f"{STAGE1}.criterion.kwargs.sub_term={{}}", 'did you mean "sub_terms"?'),
        (f"{STAGE1}.criterion.kwargs.sub_terms.bpp.wieght=1", 'did you mean "weight"?'),
        ("test.test_data_loader.colate_fn=x", 'did you mean "collate_fn"?'),
        # names in registries
        (f"{STAGE1}.optimizer.key=SDG", 'there is no optimizer "SDG"; did you mean "SGD"?'),
        (f"{STAGE1}.scheduler.key=MultiStepLr", 'did you mean "MultiStepLR"?'),
        (f"{STAGE1}.criterion.key=WeightedSum", 'did you mean "WeightedSumLoss"?'),
        (f"{STAGE1}.criterion.func2extract_model_loss=x", 'there is no loss extractor "x"'),
        (f"{STAGE1}.criterion.kwargs.sub_terms.bpp.criterion.key=BpLoss", 'mean "BppLoss"?'),
        (f"{STAGE1}.student.forward_proc=forward_batch", "there is no forward function"),
        (f"{STAGE1}.pre_epoch_process=x", 'there is no pre-epoch process "x"'),
        (f"{STAGE1}.train_data_loader.collate_fn=default_collate", "default_collate_w_pil"),
        (f"{STAGE1}.train_data_loader.batch_sampler={{key: x}}", 'no batch sampler "x"'),
        (f"{STUDENT}.key=splitable_resnet", 'did you mean "splittable_resnet"?'),
        ("models.teacher_model.key=resnet5", "there is no model"),
        (f"{STUDENT}.kwargs.resnet_name=resnet5", 'torchvision.models has no "resnet5"'),
        (f"{STUDENT}.kwargs.bottleneck_config.key=FPBased", 'there is no layer "FPBased"'),
        (f"{STUDENT}.kwargs.analysis_config.analyzer_configs.0.key=Size", 'no analyzer "Size"'),
        # signatures
        (f"{STAGE1}.optimizer.kwargs.lr_rate=1", 'SGD takes no such argument; did you mean "lr"?'),
        (f"{STAGE1}.optimizer.module_wise_configs.0.kwargs.lrr=1", "SGD takes no such argument"),
        (f"{STAGE1}.scheduler={{key: MultiStepLR, kwargs: {{}}}}", "MultiStepLR needs milestones"),
        (f"{STAGE1}.scheduler.kwargs.powr=1", 'poly_lr_scheduler takes no such argument; did you'),
        (f"{STUDENT}.kwargs.num_clases=1", 'takes no such argument; did you mean "num_classes"?'),
        ("models.teacher_model.kwargs.num_clases=1", 'did you mean "num_classes"?'),
        (f"{STAGE1}.train_data_loader.kwargs.batch_sise=1", 'did you mean "batch_size"?'),
        (f"{STAGE1}.train_data_loader.sampler.kwargs={{replace: 1}}", 'mean "replacement"?'),
        ("datasets.fake/val.init.kwargs.sise=1", 'FakeData takes no such argument; did you mea'),
        ("datasets.fake/val.init.kwarg={}", 'init.kwarg: unknown key; did you mean "kwargs"?'),
        ("datasets.fake/val.init.args=3", "init.args: must be a list, not a number"),
        ("datasets.fake/val.init.args=[1, 2, 3, 4, 5, 6, 7]", "FakeData takes 6 positional"),
        ("datasets.fake/val.init.args=[1]", "FakeData gets this argument twice"),
        ("datasets.fake/val.int={}", '!import_call knows no such key; did you mean "init"?'),
        ("datasets.fake/val.key=torchvision.datasets.FakeDat", 'did you mean "FakeData"?'),
        ("datasets.fake/val.key=torchvison.datasets.FakeData", 'no module "torchvison"'),
        ("datasets.fake/val.key=os.sep", "os.sep is text: it cannot be called"),
        ("models.teacher_model.kwargs.weights=!getattr [!import_get {key: "
         "torchvision.models.ResNet50_Weights}, IMAGENET1K_V3]",
         'ResNet50_Weights has no "IMAGENET1K_V3"; did you mean "IMAGENET1K_V'),
        # values
        ("beta=0", "beta: must be a number above 0, not 0"),
        ("beta='0.32'", "beta: must be a number above 0, not '0.32'"),
        ("beta=true", "beta: must be a number above 0, not True"),
        (f"{STAGE1}.num_epochs=0", "must be a whole number of at least 1, not a number (0)"),
        (f"{STAGE1}.num_epochs=1.5", "must be a whole number of at least 1, not a number (1.5)"),
        (f"{STAGE1}.num_epochs=", 'train.stage1: "num_epochs" is empty'),
        (f"{STAGE1}.optimizer.kwargs.lr='1e-3'", 'must be a number, not the text "1e-3"'),
        (f"{STAGE1}.optimizer.kwargs.lr=", "lr: must be a number, not empty"),
        (f"{STAGE1}.optimizer.kwargs.momentum=true", "must be a number, not true or false"),
        (f"{STAGE1}.optimizer.module_wise_configs.0.kwargs.lr=x", "must be a number, not the"),
        (f"{STAGE1}.student.frozen_modules=layer2", "must be a list of module paths, not"),
        (f"{STAGE1}.student.freeze_batch_norm=1", "must be true or false, not a number (1)"),
        (f"{STAGE1}.student=[]", "train.stage1.student: must be a mapping, not a list"),
        (f"{STAGE1}=[]", "train.stage1: must be a mapping, not a list"),
        (f"{STAGE1}.optimizer.module_wise_configs=3", "must be a list, not a number"),
        (f"{STAGE1}.optimizer.key=3", "must be the name of an optimizer, not a number"),
        ("train.epoch_to_update=stge2", 'there is no stage "stge2"; did you mean "stage2"?'),
        ("train.epoch_to_update=[1]", "must be a stage's name or an epoch's number, not a list"),
        ("name=5", "name: must be text, not a number (5)"),
        ("datasets.fake/val=3", "must be an !import_call of a dataset, not a number"),
        (f"{STAGE1}.train_data_loader.sampler.class_or_func=RandomSampler", "an !import_get of a"),
        (f"{STAGE1}.train_data_loader.dataset_id=fake", 'there is no dataset "fake" under'),
        ("dependencies=[nowhere_at_all]", 'cannot import the dependency "nowhere_at_all"'),
        ("test.evaluation=ful", "must be one of full, encode, estimate, not 'ful'; did you mean"),
        ("test.precision=fp16", "must be one of float32, bf16, not 'fp16'"),
        ("test.input=3", "must be one of reference, fast, not 3"),
        ("test.compile=1", "must be true or false, not a number (1)"),
        (f"{STAGE1}.optimizer.kwargs.lr=-0.001", "kwargs.lr: must be 0 or more, not -0.001"),
        (f"{STAGE1}.optimizer.kwargs.lr=.nan", "kwargs.lr: must be a finite number, not nan"),
        (f"{STAGE1}.optimizer.kwargs.weight_decay=-.inf", "must be a finite number, not -inf"),
        (f'{STAGE1}.optimizer.kwargs.betas=["0.9", 1]', 'betas.0: must be a number, not the text'),
        (f"{STAGE1}.optimizer.kwargs.betas=[0.9, true]", "betas.1: must be a number, not "),
        (f'{STAGE1}.scheduler.kwargs.max_lr=["1e-3"]', 'max_lr.0: must be a number, not the text'),
        (f"{STAGE1}.scheduler.kwargs.milestones=[3, -1]", "milestones.1: must be 0 or more"),
        (
            f"{STAGE1}={{scheduler: {{key: ReduceLROnPlateau, kwargs: {{_delete_: true}}}}, "
            "val_data_loader: null}",
            "scheduler.key: ReduceLROnPlateau follows a validation: the stage needs val_data_lo",
        ),
        (
            f"{STAGE1}.scheduler={{_delete_: true, key: ReduceLROnPlateau, scheduling_step: 1}}",
            "scheduling_step: ReduceLROnPlateau follows each epoch's validation: leave out",
        ),
        ("train.precision=half", "must be one of float32, bf16, not 'half'"),
        # what is missing
        ("models.student_model=", '"model" is missing (or "student_model"'),
        ("models.teacher_model=", 'teacher: there is no "teacher_model" under models'),
        (f"{STUDENT}.key=", 'models.student_model: "key" is empty'),
        (f"{STUDENT}={{key: resnet18}}", 'models.student_model: "kwargs" is missing'),
        (f"{STAGE1}.criterion.key=", 'train.stage1.criterion: "key" is empty'),
        (f"{STAGE1}.train_data_loader.dataset_id=", '"dataset_id" is empty'),
        ("train.stage4={}", "train: stage3 is missing: stages are numbered without gaps"),
        ("train.stage2=", "train.stage2: the stage is empty"),
        ("test.test_data_loader=", 'test: "test_data_loader" is empty'),
        (f"{STAGE1}.criterion.kwargs.sub_terms.bpp.weight=", '"weight" is empty'),
        (f"{STAGE1}.criterion.kwargs.sub_terms.layer1.criterion_wrapper.kwargs.input.io=",
         'input: "io" is empty'),
        # weights, and what losses read
        ("models.teacher_model.kwargs.weights=IMAGENET1K_V3", 'resnet50 has no weights "IMAGENET1K'
         '_V3"; did you mean "IMAGENET1K_V2"? (it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT)'),
        (f"{STUDENT}.kwargs.weights=ResNet50_Weights.V2", 'resnet50 has no weights "ResNet50_Wei'),
        ("models.teacher_model.kwargs.weights=!getattr [!import_get {key: "
         "torchvision.models.ResNet18_Weights}, IMAGENET1K_V1]",
         "are another model's weights: ResNet50_Weights is needed"),
        ("models.teacher_model={key: deeplabv3_resnet50, kwargs: {weights_backbone: V9}}",
         'deeplabv3_resnet50 has no weights "V9" (it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT)'),
        (f"{TERMS}.layer1.criterion_wrapper.kwargs.target.module_path=layer5",
         "target.module_path: reads the output of 'layer5', which train.stage1.teacher."
         'forward_hook.output does not list; did you mean "layer1"?'),
        (f"{TERMS}.layer1.criterion_wrapper.kwargs.input.io=input",
         "reads the input of 'bottleneck_layer', which train.stage1.student.forward_hook.input"),
        (f"{TERMS}.layer1.criterion_wrapper.kwargs.input.io=outputs", "must be input or output"),
        (f"{TERMS}.bpp.criterion.kwargs.entropy_module_path=bottleneck",
         "reads the output of 'bottleneck', which train.stage1.student.forward_hook.output"),
        (f"{TERMS}.kd={{criterion: {{key: KDLoss, kwargs: {{student_module_path: fc, "
         "student_module_io: output, teacher_module_path: ., teacher_module_io: output, "
         "temperature: 1}}, weight: 1}", "student_module_path: reads the output of 'fc', which"),
        (f"{STAGE1}.teacher=", 'reads the teacher, but train.stage1 has no "teacher"'),
        # references and computed tags
        ("extra.path=${nam}", 'extra.path: ${nam}: no such key in the config; did you mean "na'),
        (f"{STUDENT}.src_ckpt=a${{checkpoint}}", 'did you mean "checkpoints"?'),
        (f"{STUDENT}.src_ckpt=!access_by_index_or_key {{data: [1], index_or_key: 4}}", "no item 4"),
    ],
)  # fmt: skip
def test_one_mistake(assignment, problem):
    problems = found(assignment)
    assert any(problem in line for line in problems), problems


@pytest.mark.parametrize(
    "assignment",
    [
        "_anything.goes=1",
        f"{STAGE1}._note=x",
        f"{STAGE1}.student.apex={{requires: false}}",
        f"{STAGE1}.train_data_loader.cache_output=x",
        f"{STUDENT}.experiment=5",
        f"{STUDENT}.kwargs.norm_layer=",
        f"{STUDENT}.kwargs.weights=",
        f"{STUDENT}.repo_or_dir=x/y",
        "models.teacher_model.kwargs.pretrained=true",
        "models.teacher_model={key: mobilenet_v3_large, kwargs: {pretrained: true}}",
        "models.teacher_model={key: mnasnet0_5, kwargs: {pretrained: true, dropout: 0.1}}",
        "models.teacher_model={key: resnest269e, kwargs: {pretrained: true, num_classes: 1000}}",
        f"{STAGE1}.optimizer.kwargs=",
        f"{STAGE1}.scheduler=",
        f"{STAGE1}.scheduler={{key: poly_lr_scheduler, kwargs: }}",
        f"{STAGE1}.criterion.kwargs.model_term.weight={{loss_box: 1.0}}",
        f"{STAGE1}.train_data_loader.dataset_id=${{test.test_data_loader.dataset_id}}",
        f"{STAGE1}.student.wrapper={{key: DistributedDataParallel, kwargs: {{}}}}",
        "train.epoch_to_update=stage2",
        "models.teacher_model.kwargs.weights=IMAGENET1K_V1",
        "models.teacher_model.kwargs.weights=ResNet50_Weights.DEFAULT",
        f"{TERMS}.layer1.criterion_wrapper.kwargs.target={{is_from_teacher: true, module_path: ., "
        "io: output}",
        f"{TERMS}.kd={{criterion: {{key: KDLoss, kwargs: {{student_module_path: ., "
        "student_module_io: output, teacher_module_path: layer1, teacher_module_io: output, "
        "temperature: 1}}, weight: 1}",
        "train=",
        "dependencies=math",
        "test=",
    ],
)
def test_what_is_accepted(assignment):
    assert found(assignment) == []


def test_user_variables_are_keys_that_something_refers_to(tmp_path):
    text = DETECTION + "    folder: ./x\n    size: {value: 416}\n    unused: 1\n"
    text = text.replace("min_size: 416", "min_size: ${size.value}")
    config = load(tmp_path, text.replace("src_ckpt: x.pt", "src_ckpt: ${folder}/x.pt"))
    assert [line.partition(": ")[2] for line in problems_of(config)] == ["unused: unknown key"]


def test_a_variable_that_an_override_leaves_unused_is_no_fault(tmp_path):
    text = DETECTION.replace("src_ckpt: x.pt", "src_ckpt: ${body}") + "    body: ./x.pt\n"
    source = "models.model.kwargs.backbone_config.src_ckpt"
    assert problems_of(load(tmp_path, text, assignments=[f"{source}=y.pt"])) == []
    own = "_base_: c.yaml\nmodels: {model: {kwargs: {backbone_config: {src_ckpt: y.pt}}}}\n"
    assert problems_of(load_config(write(tmp_path, own, "own.yaml"))) == []
    config = load(tmp_path, text, assignments=[f"{source}=y.pt", "bodi=z.pt"])
    assert problems_of(config) == ['--set: bodi: unknown key; did you mean "body"?']


@pytest.mark.parametrize("epochs", ["0", "-1", "two"])
def test_a_stage_without_epochs_is_not_taken_for_no_stage(epochs):
    problems = found("train.epoch_to_update=stage2", f"{STAGE1}.num_epochs={epochs}")
    assert [line.partition(":")[0] for line in problems] == [f"{STAGE1}.num_epochs"]


def test_detection_and_its_swallowed_arguments(tmp_path):
    assert problems_of(load(tmp_path, DETECTION), "detection") == []
    kwargs = "models.model.kwargs"
    config = load(
        tmp_path,
        DETECTION,
        assignments=[
            f"{kwargs}.min_sizes=[416]",
            f"{kwargs}.backbone_fpn_kwargs.out_chanels=256",
            f"{kwargs}.backbone_fpn_kwargs.analysis_config.analyzer_configs.0.key=Size",
            f"{kwargs}.backbone_config.kwargs.inplans=2048",
            f"{kwargs}.backbone_config.kwargs.bottleneck_config.kwargs.channels=1",
            f"{kwargs}.backbone_config.sr_ckpt=1",
        ],
    )
    text = "\n".join(problems_of(config))
    for part in (
        'kwargs.min_sizes: faster_rcnn_model takes no such argument; did you mean "min_size"?',
        'out_chanels: create_faster_rcnn_fpn takes no such argument; did you mean "out_channels"?',
        'there is no analyzer "Size"',
        'inplans: splittable_resnest takes no such argument; did you mean "inplanes"?',
        "channels: FPBasedResNetBottleneck takes no such argument",
        'sr_ckpt: unknown key; did you mean "src_ckpt"?',
    ):
        assert part in text
    assert len(problems_of(config)) == 6


@pytest.mark.parametrize(
    ("key", "argument", "is_taken"),
    [
        ("ssd300_vgg16", "pretrained", True),
        ("ssd300_vgg16", "score_thresh", True),
        ("ssd300_vgg16", "scores_thresh", False),
        ("lraspp_mobilenet_v3_large", "pretrained_backbone", True),
        ("lraspp_mobilenet_v3_large", "aux_loss", False),
        ("deeplabv3_mobilenet_v3_large", "aux_loss", True),
        ("deeplabv3_mobilenet_v3_large", "aux_los", False),
        ("mobilenet_v2", "width_mult", True),
        ("mobilenet_v2", "width", False),
    ],
)
def test_library_models(tmp_path, key, argument, is_taken):
    model = {"_delete_": True, "key": key, "kwargs": {argument: None}}
    config = load(tmp_path, DETECTION, overrides={"models": {"model": model}})
    assert (problems_of(config) == []) is is_taken


def test_the_model_must_fit_the_task(tmp_path):
    config = load(tmp_path, DETECTION)
    expected = (
        'models.model.key: "faster_rcnn_model" is a detection model, not a classification model'
    )
    assert problems_of(config, "classification")[0].endswith(expected)
    assert problems_of(config, "detection") == []


def test_three_heads(tmp_path):
    part = {"key": "resnet50", "kwargs": {}}
    model = {
        "_delete_": True,
        "key": "ladon",
        "classification": part,
        "detection": {"key": "fasterrcnn_resnet50_fpn", "kwargs": {}},
        "segmentation": {"key": "lraspp_mobilenet_v3_large", "kwargs": {"nm_classes": 21}},
    }
    config = load(tmp_path, DETECTION, overrides={"models": {"model": model}})
    (problem,) = problems_of(config, "segmentation")
    assert (
        'nm_classes: lraspp_mobilenet_v3_large takes no such argument; did you mean "n' in problem
    )
    model |= {"segmentation": part, "detection": None}
    config = load(tmp_path, DETECTION, overrides={"models": {"model": model}})
    text = "\n".join(problems_of(config))
    assert '"detection" is empty' in text
    assert '"resnet50" is a classification model, not a segmentation model' in text


def test_batch_size_beside_a_batch_sampler(tmp_path):
    sampler = "test.test_data_loader.batch_sampler={key: BatchSampler, kwargs: {drop_last: false}}"
    text = "\n".join(problems_of(load(tmp_path, DETECTION, assignments=[sampler])))
    assert "BatchSampler needs batch_size" in text
    assert "batch_size: belongs into batch_sampler.kwargs" in text


def test_a_nearly_empty_config(tmp_path):
    assert problems_of(load(tmp_path, "name: x")) == [
        'c.yaml:1: "datasets" is missing',
        'c.yaml:1: "models" is missing',
        'c.yaml:1: "train" and "test" are both missing: there is nothing to run',
    ]


@pytest.mark.parametrize("section", ["datasets", "models", "train", "test", "dependencies"])
@pytest.mark.parametrize("value", ["3", "text", "[1]", "{a: 1}", "", "!import_get {key: os.sep}"])
def test_any_shape_is_survived(section, value):
    validate_config(good(f"{section}={value}"))


def test_what_dependencies_register_can_be_named(tmp_path, monkeypatch):
    from torchdistill.optim.registry import OPTIM_DICT

    monkeypatch.setattr("ladon.config.core.aliases.MODULE_ALIASES", {})
    module = types.ModuleType("registers_something")
    monkeypatch.setitem(sys.modules, "registers_something", module)
    monkeypatch.setitem(OPTIM_DICT, "MySGD", lambda params, speed: None)
    config = good("dependencies=[registers_something]", f"{STAGE1}.optimizer.key=MySGD")
    lines = [line.partition(": ")[2] for line in problems_of(config)]
    assert "train.stage1.optimizer.kwargs: <lambda> needs speed" in lines
    assert len(lines) == 4  # lr, momentum and the module's own lr are not its arguments


def test_an_anchored_mistake_is_listed_once(tmp_path):
    text = GOOD.read_text().replace("freeze_batch_norm: false", "freeze_batch_nrm: false")
    assert len(problems_of(load_config(write(tmp_path, text)))) == 1


def test_places_of_problems_in_bases_and_options(tmp_path):
    write(tmp_path, DETECTION.replace("num_classes: 91", "num_clases: 91"), "base.yaml")
    config = load(
        tmp_path,
        "_base_: base.yaml",
        overrides={"beta": -1},
        assignments=["test.test_data_loader.x=1"],
    )
    lines = problems_of(config)
    places = [line.partition(": ")[0] for line in lines]
    assert places == ["--json", "--set", "base.yaml:9"]
    assert validate_config(config)[2].line == 9
