"""Folder trees and lists of PASCAL VOC: exactly the images that are there, or a refusal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fuzzing import folder, fuzz, in_child, refusals
from hypothesis import strategies as st
from PIL import Image

from ladon.data.folder import ImageFolder
from ladon.data.samplers import create_aspect_ratio_groups
from ladon.data.voc import VOCSegmentation

ROOT = "tree"
NAMES = st.sampled_from(
    [
        "a",
        "b",
        "B",
        "c d",
        "é",
        "e\u0301",
        "10",
        "9",
        ".hidden",
        "..x",
        "__pycache__",
        "__MACOSX",
        "@eaDir",
        "n\nn",
        "t\tt",
        "\x1b[31m",
        "\u2028",
        "x" * 250,
        "a.jpg",
        "'q\"",
        "%s{0}",
        "-r",
        "~",
        "$HOME",
        "*",
        os.fsdecode(b"\xff\xfe"),
        os.fsdecode(b"caf\xe9"),
        "\u202e",
        "CON",
    ]
)
FILES = st.sampled_from(
    [
        "1.jpg",
        "2.PNG",
        "3.JPEG",
        ".jpg",
        "._1.jpg",
        "Thumbs.db",
        "n.txt",
        "a\nb.png",
        os.fsdecode(b"\xff.png"),
        "x.webp",
        "noend",
        "é.jpg",
        "two.tar.png",
        "10.jpg",
        "9.jpg",
        " .png",
    ]
)
LINKS = st.sampled_from([".", "..", "../..", "nowhere", "self", "outside", "/"])
LEAVES = st.one_of(
    st.just("picture"),
    st.just("picture"),
    st.just("empty"),
    st.just("text"),
    st.just("pipe"),
    st.tuples(st.just("link"), LINKS),
)
CLASSES = st.dictionaries(
    NAMES,
    st.recursive(
        st.dictionaries(FILES, LEAVES, max_size=3),
        lambda inner: st.dictionaries(NAMES, inner | LEAVES, max_size=3),
        max_leaves=4,
    )
    | LEAVES,
    max_size=4,
)
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
NO_CLASSES = ("__pycache__", "__MACOSX", "@eaDir")


def make(where: Path, tree: dict) -> None:
    where.mkdir()
    for name, node in tree.items():
        path = where / name
        if isinstance(node, dict):
            make(path, node)
        elif node == "picture":
            shutil.copyfile(folder() / "picture", path)
        elif node == "empty":
            path.touch()
        elif node == "text":
            path.write_text("no image")
        elif node == "pipe":
            os.mkfifo(path)
        elif node[1] == "self":
            path.symlink_to(path)
        elif node[1] == "outside":
            path.symlink_to(folder() / "outside")
        else:
            path.symlink_to(node[1])


def images_below(top: Path, tree: dict, seen: list) -> list[str]:
    """The images of a class: an ancestor that a link leads to is not gone through again."""
    found = []
    for name, node in tree.items():
        if name.startswith("."):
            continue
        path = top / name
        if isinstance(node, dict):
            if name not in NO_CLASSES:
                found += images_below(path, node, seen)
        elif node == ("link", "outside"):
            if name not in NO_CLASSES and "outside" not in seen:
                seen.append("outside")
                found.append(str(path / "o.jpg"))
        elif path.is_dir() or not name.lower().endswith(IMAGES):
            continue
        else:
            found.append(str(path))
    return found


def fresh() -> Path:
    where = folder()
    if not (where / "picture").exists():
        Image.new("RGB", (6, 4), (9, 9, 9)).save(where / "picture", "PNG")
        (where / "outside").mkdir()
        shutil.copyfile(where / "picture", where / "outside" / "o.jpg")
    shutil.rmtree(where / ROOT, ignore_errors=True)
    return where / ROOT


@fuzz(
    CLASSES,
    150,
    {"n\nn": {}},
    {"a": {"1.jpg": "pipe"}},
    {"a": {"a\nb.png": "text"}, "b": {"b": ("link", ".."), "1.jpg": "picture"}},
)
def trees(tree):
    root = fresh()
    make(root, tree)
    with refusals():
        data = ImageFolder(root)
        expected = sorted(
            name
            for name, node in tree.items()
            if not name.startswith(".")
            and name not in NO_CLASSES
            and (isinstance(node, dict) or node == ("link", "outside"))
        )
        assert "/" not in [os.path.realpath(root / name) for name in data.classes]
        assert data.classes == expected
        of = {
            name: sorted(
                [str(root / name / "o.jpg")]
                if tree[name] == ("link", "outside")
                else images_below(root / name, tree[name], [])
            )
            for name in expected
        }
        assert all(of.values()), "an empty class was let in"
        found = [(path, data.classes[label]) for path, label in data.samples]
        real = sorted((os.path.realpath(path), name) for path, name in found)
        assert real == sorted((os.path.realpath(path), name) for name in of for path in of[name])
        assert [label for _, label in found] == sorted(label for _, label in found)
        for index, (path, _) in enumerate(data.samples):
            read_one(data, index, path)
    with refusals():
        create_aspect_ratio_groups(ImageFolder(root))


def read_one(data: ImageFolder, index: int, path: str) -> None:
    with refusals() as said:
        image, _ = data[index]
        assert image.getpixel((0, 0)) == (9, 9, 9)
        assert image.size == (6, 4)
    is_picture = (
        os.path.isfile(path) and Path(path).read_bytes() == (folder() / "picture").read_bytes()
    )
    assert bool(said) != is_picture, (path, said)


LINES = st.one_of(
    st.sampled_from(
        [b"one", b"two", b"", b" one ", b"one\r", b"none", b"../one", b"/", b".", b"\xff", b"a\0b"]
    ),
    st.sampled_from(
        [
            b"one two",
            b"one 1",
            b"\xef\xbb\xbfone",
            b"x" * 300,
            b"one\x85two",
            b"\x1b[3m",
            "é".encode(),
        ]
    ),
    st.binary(max_size=6),
)


@fuzz(
    st.tuples(st.lists(LINES, max_size=4), st.sampled_from(["2012", "2007", "x", 2012, None])),
    100,
    ([b"one\x85two"], "2012"),
)
def voc_lists(case):
    lines, year = case
    root = fresh()
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / name).mkdir(parents=True)
    for name in ("one", "two"):
        shutil.copyfile(folder() / "picture", base / "JPEGImages" / f"{name}.jpg")
        Image.new("L", (6, 4), 3).save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\n".join(lines))
    with refusals() as said:
        data = VOCSegmentation(root, year, "val")
        text = b"\n".join(lines).decode("utf-8-sig")
        wanted = [line.strip() for line in text.split("\n") if line.strip()]
        assert [Path(path).stem for path in data.images] == wanted
        for image, mask in data:
            assert image.getpixel((0, 0)) == (9, 9, 9)
            assert mask.getpixel((0, 0)) == 3
    if not said:
        assert set(wanted) <= {"one", "two"}


def test_folder_trees(tmp_path):
    in_child(__name__, tmp_path)
