"""The folder for a device: complete, without PyTorch, and its payloads are the model's."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hyperpriors
import numpy as np
import pytest
import torch
from edge_folders import exported
from pictures import noise
from split_models import pixels

import ladon
from ladon.bottlenecks import find_bottleneck
from ladon.codec import Fit, Payload, rans_python
from ladon.codec.rans_native import NativeRans, library_name
from ladon.commands.export import main
from ladon.edge import EdgeEncoder, coder
from ladon.edge.manifest import FORMAT, MANIFEST, Manifest, sha256
from ladon.errors import DataError, LadonError, UsageError
from ladon.export import edge as exporting
from ladon.export import libraries
from ladon.export.edge import export_edge
from ladon.export.graph import OPSET


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    with exported(tmp_path_factory.mktemp("export")) as (model, folder):
        yield model, folder


@pytest.fixture
def copied(halves, tmp_path):
    """The folder, as a copy that a test may damage."""
    return shutil.copytree(halves[1], tmp_path / "edge")


@pytest.mark.parametrize("size", [(77, 120), (200, 60), (96, 96)])
def test_a_payload_decodes_to_the_latent_that_the_device_meant(halves, size):
    model, folder = halves
    device, image = EdgeEncoder(folder), pixels(*size)
    payload = device.encode(image)
    fitted = device.fit(image)
    symbols = device.tables.level().symbols(device.latent(fitted))
    meant = device.tables.level().latent(symbols)
    decoded = model.bottleneck.coding.read([[payload.strings[0]]], payload.shape)[0]
    assert np.array_equal(decoded.numpy(), meant)
    own = model.encode(image)
    for name in ("encoder_id", "kind", "image_size", "scaled_size", "input_size", "fit", "shape"):
        assert getattr(payload, name) == getattr(own, name), name
    assert payload.fit is (Fit.NONE if size == (96, 96) else Fit.PADDED)
    answers = model.answer(Payload.from_bytes(payload.to_bytes()))
    assert set(answers) == {"classification", "detection", "segmentation"}
    assert np.array_equal(answers.mask.labels.shape, size)


def test_the_file_says_what_it_is(halves):
    model, folder = halves
    manifest = Manifest.read(folder)
    assert manifest.encoder_id == model.encoder_id
    assert manifest.fitting == model.fitting
    assert manifest.class_names == model.class_names
    assert manifest.heads == model.heads
    assert (manifest.opset, manifest.precision, manifest.licence) == (OPSET, "float32", "MIT")
    shape = EdgeEncoder(folder).encode(noise(96, 96)).shape
    assert (manifest.latent_side(96),) * 2 == shape
    plain = json.loads(json.dumps(manifest.to_plain()))
    assert plain == json.loads((folder / MANIFEST).read_text())
    files = {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}
    files = {name: value for name, value in files.items() if "__pycache__" not in name}
    assert {**manifest.files, MANIFEST: sha256(folder / MANIFEST)} == files


PROGRAM = """
import importlib, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
before = {name.partition(".")[0] for name in sys.modules}
import onnxruntime, numpy, PIL.Image
theirs = {name.partition(".")[0] for name in sys.modules}
for path in (folder / "ladon").rglob("*.py"):
    name = ".".join(path.relative_to(folder).with_suffix("").parts)
    importlib.import_module(name.removesuffix(".__init__"))
from ladon.edge import EdgeEncoder
data = EdgeEncoder(folder, threads=1).encode(sys.argv[2]).to_bytes()
loaded = {name.partition(".")[0] for name in sys.modules} - before - theirs
foreign = sorted(loaded - set(sys.stdlib_module_names))
where = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "ladon"]
print(json.dumps([data.hex(), foreign, where, sorted(set(sys.modules) & {"torch", "numba"})]))
"""


def test_the_folder_imports_neither_torch_nor_numba_nor_this_library(halves, tmp_path):
    """All its modules, in a process that is told of nothing else."""
    _, folder = halves
    picture = tmp_path / "a.png"
    noise(80, 70).save(picture)
    command = [sys.executable, "-I", "-B", "-c", PROGRAM, folder, picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data, foreign, where, heavy = json.loads(done.stdout)
    assert heavy == []
    assert foreign == ["ladon"]
    assert all(Path(path).is_relative_to(folder) for path in where)
    assert bytes.fromhex(data) == EdgeEncoder(folder).encode(picture).to_bytes()


def encoded_by_a_process(python: Path | str, folder: Path, where: Path, *flags: str) -> bytes:
    """What `edge.py` writes of a picture, with nothing else in its way."""
    picture = where / "a.png"
    noise(80, 70).save(picture)
    command = [python, "-B", folder / "edge.py", picture, "--save-payloads", where / "sent"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=120, env=clean
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(f"{picture}: ")
    return (where / "sent" / "a.ladon").read_bytes()


def test_the_launcher_runs_where_it_lies(halves, tmp_path):
    _, folder = halves
    written = encoded_by_a_process(sys.executable, folder, tmp_path, "--threads", "1")
    assert written == EdgeEncoder(folder).encode(tmp_path / "a.png").to_bytes()


@pytest.mark.slow
def test_a_device_needs_200_mb_and_no_torch(halves, tmp_path):
    """A fresh environment of `requirements.txt`; its size is without pip."""
    _, folder = halves
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"]
    done = subprocess.run(
        [*pip, "-r", folder / "requirements.txt"], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.skip(f"pip cannot install the requirements here: {done.stderr.strip()[-200:]}")
    files = [path for path in (tmp_path / "env").rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 200e6
    installed = {path.name for path in (tmp_path / "env").glob("lib/python*/site-packages/*")}
    assert "onnxruntime" in installed
    assert installed.isdisjoint({"torch", "numba", "compressai", "cv2"})
    written = encoded_by_a_process(python, folder, tmp_path)
    assert written == EdgeEncoder(folder).encode(tmp_path / "a.png").to_bytes()


def test_without_a_built_library_the_bytes_are_the_same(halves, monkeypatch):
    _, folder = halves
    image = pixels()
    expected = EdgeEncoder(folder).encode(image)
    monkeypatch.setattr(coder, "library_name", lambda: library_name("riscv64"))
    device = EdgeEncoder(folder)
    assert device.tables._rans is rans_python
    assert device.encode(image) == expected


def test_a_library_of_another_system_is_not_needed(copied):
    name = library_name()
    (copied / name).write_bytes(b"MZ")
    plain = json.loads((copied / MANIFEST).read_text())
    plain["files"][name] = sha256(copied / name)
    (copied / MANIFEST).write_text(json.dumps(plain))
    assert EdgeEncoder(copied).tables._rans is rans_python


def test_a_library_may_be_compiled_on_the_device(copied):
    name = library_name()
    if not (copied / name).exists():
        pytest.skip(f"there is no compiler for {name}")
    plain = json.loads((copied / MANIFEST).read_text())
    del plain["files"][name]
    (copied / MANIFEST).write_text(json.dumps(plain))
    assert isinstance(EdgeEncoder(copied).tables._rans, NativeRans)


@pytest.mark.parametrize("name", ["encoder.onnx", "tables.npz", library_name()])
def test_a_changed_file_is_named(copied, name):
    if not (copied / name).exists():
        pytest.skip(f"there is no compiler for {name}")
    (copied / name).write_bytes((copied / name).read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name} is not what model\.json says"):
        EdgeEncoder(copied)
    (copied / name).unlink()
    with pytest.raises(DataError, match=rf"{name} cannot be read \(No such file"):
        EdgeEncoder(copied)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda plain: plain.update(format=FORMAT + 1), "of format 3, newer than 2"),
        (lambda plain: plain.update(encoder_id="00"), "is damaged"),
        (lambda plain: plain.update(kind="mine"), "is damaged"),
        (lambda plain: plain.pop("fitting"), "is damaged"),
        (lambda plain: plain.update(more=1), "is damaged"),
    ],
)
def test_a_damaged_description_is_named(copied, damage, expected):
    plain = json.loads((copied / MANIFEST).read_text())
    damage(plain)
    (copied / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(DataError, match=rf"model\.json.* {expected}"):
        EdgeEncoder(copied)
    (copied / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        EdgeEncoder(copied)


def test_another_folder_is_none(tmp_path):
    with pytest.raises(DataError, match=r"model\.json is missing: name a folder that"):
        EdgeEncoder(tmp_path)


def test_images_that_cannot_be_encoded_are_refused(halves):
    device = EdgeEncoder(halves[1])
    with pytest.raises(DataError, match="is no image"):
        device.encode(np.zeros((3, 4), np.float32))
    fitted = device.fit(pixels())
    fitted.input[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        device.encode_fitted(fitted)
    tiny = SimpleNamespace(input=np.zeros((3, 1, 1), np.float32), input_size=(1, 1))
    with pytest.raises(DataError, match="the encoder fails for 1x1: "):
        device.latent(tiny)


@pytest.mark.parametrize("kind", hyperpriors.KINDS)
def test_a_hyperprior_is_refused_with_the_reason(kind):
    bottleneck = find_bottleneck(hyperpriors.student(kind))
    made = SimpleNamespace(name="mine", bottleneck=bottleneck)
    with pytest.raises(UsageError, match=rf"^mine: {kind} has a hyperprior, which is not"):
        export_edge(made, Path("never"), origin={}, licence="")
    assert not Path("never").exists()


def test_a_folder_is_written_whole_or_not_at_all(halves, tmp_path, monkeypatch):
    model, _ = halves
    target = tmp_path / "edge"
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(LadonError, match=r"differ from PyTorch's by .*: it is not written"):
        export_edge(model, target, origin={}, licence="")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "_write_encoder", lambda *_: 0.0)
    monkeypatch.setattr(exporting.shutil, "copyfile", full)
    with pytest.raises(LadonError, match=rf"^{target}: cannot be written: No space left") as failed:
        export_edge(model, target, origin={}, licence="")
    assert failed.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export_edge(model, target, origin={}, licence="")


def test_without_compilers_each_missing_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries.shutil, "which", lambda name: None)
    said = libraries.build_libraries(tmp_path)
    assert [line.partition(":")[0] for line in said] == [
        "no librans-x86_64.so",
        "no librans-aarch64.so",
    ]
    assert "Python codes" in said[1]
    assert "gcc-aarch64-linux-gnu" in said[1]
    assert list(tmp_path.iterdir()) == []


def test_libraries_need_no_other_ones(tmp_path):
    missing = libraries.build_libraries(tmp_path)
    built = sorted(tmp_path.iterdir())
    assert len(built) + len(missing) == 2
    for path in built:
        content = path.read_bytes()
        machine = {"librans-x86_64.so": 62, "librans-aarch64.so": 183}[path.name]  # ELF's numbers
        assert int.from_bytes(content[18:20], "little") == machine
        assert b"libc.so" not in content
    if (own := tmp_path / library_name()) in built:
        NativeRans(own)


def test_the_command_exports_a_single_task_in_int8(tmp_path, halves, capsys):
    configs, photos, out = halves[1].parent, tmp_path / "photos", tmp_path / "edge"
    photos.mkdir()
    for number in range(3):
        noise(100 + number, 90).save(photos / f"{number}.png")
    flags = ["--config", str(configs / "classification.yaml"), "--out", str(out)]
    assert main(["edge", *flags, "--int8"]) == 2
    assert "--int8 and --calibrate FOLDER belong together" in capsys.readouterr().err
    more = ["--int8", "--calibrate", str(photos), "--licence", "CC0", "--origin", "a test"]
    assert main(["edge", *flags, *more]) == 0
    shown = capsys.readouterr().out
    assert "classification, encoder " in shown
    assert "encoder (int8, opset 18) and tables 0.0" in shown
    manifest = Manifest.read(out)
    assert (manifest.precision, manifest.licence) == ("int8", "CC0")
    assert manifest.origin == {"config": "classification.yaml", "stated": "a test"}
    assert manifest.heads == ("classification",)
    assert not (out / "float32-encoder.onnx").exists()
    device = EdgeEncoder(out)
    with ladon.load(configs / "classification.yaml") as model:
        fitted = device.fit(photos / "0.png")
        eager = model.bottleneck.coding.analyse(torch.from_numpy(fitted.input)[None])[0].numpy()
        difference = np.abs(device.latent(fitted) - eager).max()
        assert 1e-4 < difference < 0.2 * np.abs(eager).max(), "it is another network, but near"
        payload = device.encode_fitted(fitted)
        assert payload.encoder_id == model.encoder_id
        assert model.answer(payload).classes is not None
    assert main(["edge", *flags]) == 2
    assert "is there already: name a new folder" in capsys.readouterr().err
