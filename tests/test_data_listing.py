"""Listings of class folders: compact, and kept between runs without ever being wrong."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladon.data import folder as folder_module
from ladon.data import listing
from ladon.data.folder import ImageFolder, visible_folders
from ladon.data.listing import Folder, Samples, joined, split


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three classes, one with a folder in it; every listing is kept, and folders have settled."""
    monkeypatch.setenv(listing.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "KEPT_FROM", 1)
    monkeypatch.setattr(listing, "_SETTLED", -60.0)
    for name in ("ant/1.jpg", "bee/b.png", "bee/a.JPEG", "bee/more/é.jpg", "cat/\udce9.jpg"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "set" / "ant" / "notes.txt").touch()
    return tmp_path / "set"


@pytest.fixture
def listed(monkeypatch):
    """Names of the classes that were listed, not known."""
    names = []

    def noted(root, name):
        names.append(name)
        return visible_folders(root, name)

    monkeypatch.setattr(folder_module, "visible_folders", noted)
    return names


def found(root):
    """What a set lists, which must be what is there."""
    samples = list(ImageFolder(root).samples)
    images = (p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    assert sorted(path for path, _ in samples) == sorted(map(str, images))
    return samples


def kept_files(root):
    return sorted((root.parent / "cache").rglob("*"))


def changed(path, change):
    """Change a folder until its times tell so: they have steps of a few milliseconds."""
    before = path.stat().st_ctime_ns
    change()
    while path.stat().st_ctime_ns == before:
        (path / ".x").touch()
        (path / ".x").unlink()


def test_a_second_start_lists_nothing(root, listed):
    first = found(root)
    assert listed == ["ant", "bee", "cat"]
    (file,) = (path for path in kept_files(root) if path.is_file())
    written = file.stat().st_mtime_ns
    assert found(root) == first
    assert listed == ["ant", "bee", "cat"]
    assert file.stat().st_mtime_ns == written
    assert [label for _, label in first] == [0, 1, 1, 1, 2]


CHANGES = {
    "added": lambda root: (root / "bee" / "c.jpg").touch(),
    "removed": lambda root: (root / "bee" / "b.png").unlink(),
    "renamed": lambda root: (root / "bee" / "b.png").rename(root / "bee" / "c.png"),
    "a folder": lambda root: (root / "bee" / "x").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_folder_is_listed_anew(root, listed, change):
    found(root)
    listed.clear()
    changed(root / "bee", lambda: change(root))
    expected = found(root)
    assert listed == ["bee"]
    assert found(root) == expected
    assert listed == ["bee"]


def test_a_changed_folder_below_is_listed_anew_whatever_its_time_says(root, listed):
    found(root)
    listed.clear()
    inner = root / "bee" / "more"
    status = inner.stat()
    changed(inner, (inner / "z.jpg").touch)
    os.utime(inner, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(found(root)) == 6
    assert listed == ["bee"]


def test_another_folder_in_the_same_place_is_listed_anew(root, listed):
    found(root)
    listed.clear()
    root.rename(root.with_name("old"))
    (root / "bee").mkdir(parents=True)
    (root / "bee" / "1.jpg").touch()
    assert len(found(root)) == 1
    assert listed == ["bee"]


def test_classes_that_come_and_go(root, listed):
    found(root)
    (root / "dog").mkdir()
    (root / "dog" / "1.jpg").touch()
    for path in ("1.jpg", "notes.txt"):
        (root / "ant" / path).unlink()
    (root / "ant").rmdir()
    listed.clear()
    assert [label for _, label in found(root)] == [0, 0, 0, 1, 2]
    assert listed == ["dog"]
    found(root)
    assert listed == ["dog"]


def test_links_and_fresh_folders_are_not_kept(root, listed, monkeypatch):
    (root / "bee" / "link.jpg").symlink_to(root / "ant" / "1.jpg")
    found(root)
    found(root)
    assert listed == ["ant", "bee", "cat", "bee"]
    listed.clear()
    monkeypatch.setattr(listing, "_SETTLED", 3600.0)
    monkeypatch.setenv(listing.CACHE_VARIABLE, str(root.parent / "other"))
    found(root)
    assert listed == ["ant", "bee", "cat"]
    assert not (root.parent / "other").exists()


def test_few_files_and_off_keep_nothing(root, listed, monkeypatch):
    monkeypatch.setattr(listing, "KEPT_FROM", 50)
    found(root)
    monkeypatch.setattr(listing, "KEPT_FROM", 1)
    monkeypatch.setenv(listing.CACHE_VARIABLE, "off")
    found(root)
    assert not kept_files(root)
    assert not (root.parent / "off").exists()
    assert len(listed) == 6


def test_where_nothing_can_be_written(root, listed, monkeypatch):
    (root.parent / "file").touch()
    monkeypatch.setenv(listing.CACHE_VARIABLE, str(root.parent / "file"))
    assert len(found(root)) == 5


def damages(file):
    content = file.read_bytes()
    arrays = dict(np.load(file))
    yield b""
    yield content[: len(content) // 2]
    yield content[:-40] + bytes(40)
    for name, other in (
        ("heading", joined(["1", "/elsewhere"])),
        ("heading", joined(["0", str(file)])),
        ("places", joined(["ant"])),
        ("names", None),
    ):
        changed_arrays = dict(arrays)
        del changed_arrays[name]
        if other is not None:
            changed_arrays[name] = np.frombuffer(other, np.uint8)
        np.savez(file, **changed_arrays)
        yield file.read_bytes()
    np.savez(file, **arrays | {"sizes": np.array([{}], dtype=object)})  # pickled
    yield file.read_bytes()


def test_a_damaged_file_is_written_anew(root, listed):
    found(root)
    (file,) = (path for path in kept_files(root) if path.is_file())
    for number, damaged in enumerate(list(damages(file))):
        file.write_bytes(damaged)
        listed.clear()
        found(root)
        assert listed == ["ant", "bee", "cat"], number
        found(root)
        assert len(listed) == 3


def test_which_files_are_images_is_asked_again(root):
    assert len(found(root)) == 5
    dataset = ImageFolder(root, is_valid_file=lambda path: path.endswith(".txt"), allow_empty=True)
    assert dataset.samples == [(str(root / "ant" / "notes.txt"), 0)]
    given = ImageFolder(root, class_names=["x", "cat", "bee", "ant"])
    assert given.targets == [label for _, label in given.samples] == [3, 2, 2, 2, 1]


def test_relative_roots_give_relative_paths(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    for _ in range(2):
        assert ImageFolder("set").samples[0][0] == os.path.join("set", "ant", "1.jpg")
    monkeypatch.chdir(root)
    assert ImageFolder(".").samples[-1][0] == os.path.join(".", "cat", "\udce9.jpg")


def test_endings():
    folder = Folder(
        "x", joined(["a.jpg", "b.JPEG", "c.tar.gz", "d", "e.JPG\u212a", "f.K", "g.gz"]), None
    )
    for extensions in ((".jpg", ".jpeg"), (".jpg",), (".k",), (".gz", ".tar.gz"), (".jpg\u212a",)):
        for part in (folder, folder.only(lambda n: n < "c"), folder.only(lambda n: "gz" in n)):
            expected = [n for n in part.names if n.lower().endswith(extensions)]
            assert part.ending_in(extensions).names == expected


NAMES = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=4), st.integers(0, 3)), max_size=6))
def test_samples_are_a_list(folders):
    folders = [(place, [n[:50] for n in names], label) for place, names, label in folders]
    samples = Samples("r", [(Folder(p, joined(names), None), label) for p, names, label in folders])
    expected = [(os.path.join("r", p, n), label) for p, names, label in folders for n in names]
    assert all(split(joined(names)) == names for _, names, _ in folders)
    assert list(samples) == expected
    assert samples == expected
    assert expected == samples
    assert samples != [*expected, ("", 0)]
    assert samples.targets == [label for _, label in expected]
    assert [samples[n] for n in range(-len(expected), len(expected))] == expected * 2
    assert samples[1:-1:2] == expected[1:-1:2]
    with pytest.raises(IndexError):
        samples[len(expected)]
    new = samples.relabelled({0: 3, 1: 2, 2: 1, 3: 0})
    assert list(new) == [(path, 3 - label) for path, label in expected]
    assert pickle.loads(pickle.dumps(samples)) == samples
    if expected:
        assert random.Random(1).choice(samples) in expected
