"""Answers in a few words."""

from __future__ import annotations

from collections import Counter

from ladon.split.answers import Answers
from ladon.split.pictures import named

_NAMED = 3  # of an image's objects and classes
_LEAST_SHARE = 0.01  # of an image's pixels, of the classes


def in_words(answers: Answers, head: str, threshold: float) -> str:
    """Return a head's answer in one line.

    Args:
        answers: that have the head's.
        head: 'classification', 'detection' or 'segmentation'.
        threshold: objects of a smaller score are left out.
    """
    if head == "classification":
        return ", ".join(f"{named(c)} {c.score:.1%}" for c in (answers.classes or ())[:1])
    if head == "detection":
        sure = [o for o in answers.objects or () if o.score >= threshold]
        counts = Counter(map(named, sure)).most_common()
        words = [name if n == 1 else f"{n} × {name}" for name, n in counts]
    else:
        plain = answers.to_plain()["segmentation"]
        height, width = plain["size"]
        shown = (c for c in plain["classes"] if c["pixels"] >= height * width * _LEAST_SHARE)
        largest = sorted(shown, key=lambda c: -c["pixels"])
        words = [
            f"{c['class'] or 'class {}'.format(c['label'])} {c['pixels'] / (height * width):.0%}"
            for c in largest
        ]
    rest = len(words) - _NAMED
    return ", ".join(words[:_NAMED] + [f"{rest} more"] * (rest > 0)) or "nothing"
