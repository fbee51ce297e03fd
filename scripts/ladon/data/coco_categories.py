"""Which label each category of a COCO file has, whatever ids the file gives its categories.

A detector of K classes has labels 1 to K - 1; 0 is background. The published files' ids, 1 to 90
with gaps, are such labels, and stay: the released checkpoints were trained so. Ids that are none
(7, 20 and 300; from 0 on) are numbered 1 to N in the order in which the file lists its categories,
and what such a model is validated and tested on gets its labels by the names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ladon.data.labels import labels_by_name, name_problem
from ladon.errors import DataError
from ladon.images import shown

logger = logging.getLogger(__name__)

BACKGROUND = "background"
"""Name of label 0 among names that were numbered: by it a checkpoint tells that its labels are not
the ids of its training set. Where labels are ids, label 0 has no name."""

_MOST_LABELS = 100_000  # as a list by label; more than any set has, less than what fills memory


class Categories:
    """The categories of a COCO file and their labels.

    Args:
        entries: the file's `categories`, in its order; each has an `id` and maybe a `name`.
        used: ids that annotations have.
        file: the annotation file, for messages.
        number_from: what says how many classes the model has, for messages: the config's key.

    Attributes:
        number_from: as given.
        labels: label of each category id; of ids that no annotation has, only as far as they have
            one.
        names: name of each label, '' where one has none; None if the file names no category.
    """

    labels: dict[int, int]
    names: list[str] | None

    def __init__(
        self,
        entries: Iterable[Mapping[str, Any]],
        used: Iterable[int],
        file: str | os.PathLike,
        number_from: str = "the model's num_classes",
    ) -> None:
        self._names = {entry["id"]: entry.get("name") or "" for entry in entries}
        self._used = sorted(used)
        self._file = shown(file)
        self.number_from = number_from
        self.labels = {}
        self._define(None)

    @property
    def ids(self) -> dict[int, int]:
        """Category id of each label."""
        return {label: category_id for category_id, label in self.labels.items()}

    def assign(
        self, num_classes: int | None, names: Sequence[str] | None = None, where: str = ""
    ) -> None:
        """Give each category the label that it has to a model.

        Args:
            num_classes: K, the model's, background included; None if unknown.
            names: the model's classes by label, '' where unknown; None if nothing names them.
            where: whose names they are, for messages: 'the training set …' or 'the checkpoint …';
                '' while the model's labels have no meaning yet, so that these categories give it.

        Raises:
            DataError: the model has too few classes, or not these.
        """
        before = self.labels
        if names is not None:
            self._follow(names, where, num_classes)
        elif not where:
            self._define(num_classes)
        else:
            self.keep_ids(num_classes, f", and {where} does not name its classes")
        if self.labels != before and any(i != label for i, label in self.labels.items()):
            pairs = [f"{i} is {label}" for i, label in self.labels.items()]
            more = f", … ({len(pairs)} in all)" if len(pairs) > 4 else ""
            logger.info(
                "%s: labels of its category ids: %s%s", self._file, ", ".join(pairs[:4]), more
            )

    def keep_ids(self, num_classes: int | None, why: str = "") -> None:
        """Take the ids for labels.

        Raises:
            DataError: an annotation has an id that is none.
        """
        wrong = self._beyond(num_classes)
        if wrong:
            highest = max(wrong)
            fits = num_classes is not None and num_classes <= highest < _MOST_LABELS
            needed = f" to {highest + 1}" if fits else ""
            raise DataError(
                f"{self._beyond_text(num_classes)}{why}; number the categories so or set "
                f"{self.number_from}{needed}"
            )
        self._keep()

    def _define(self, num_classes: int | None) -> None:
        if not self._beyond(num_classes):
            self._keep()
            return
        count = len(self._names)
        if num_classes is not None and count >= num_classes:
            raise DataError(
                f"{self._beyond_text(num_classes)}, too few for the file's {count} categories; set "
                f"{self.number_from} to {count + 1}, its categories and background"
            )
        self._check_unique()
        self.labels = {category_id: label for label, category_id in enumerate(self._names, start=1)}
        self.names = [BACKGROUND, *map(self._name, self._names)]

    def _follow(self, names: Sequence[str], where: str, num_classes: int | None) -> None:
        """Take labels by the names, unless ids are the model's labels as they are."""
        if list(names[:1]) != [BACKGROUND] and not self._beyond(num_classes):
            problem = name_problem({i: self._names[i] for i in self._used}, names, where)
            if problem is None:
                self._keep()
                return
            if not self._beyond(num_classes, self._names):  # no telling whether id or name is wrong
                raise DataError(f"{self._file}: {problem}")
        self._check_unique()
        of_objects = ["", *names[1:]]
        used = [self._name(category_id) for category_id in self._used]
        labels_by_name(used, of_objects, f"{self._file}: categories", where)
        listed = {self._name(category_id): category_id for category_id in self._names}
        self.labels = {
            listed[name]: label for label, name in enumerate(of_objects) if name in listed
        }
        self.names = list(names)

    def _keep(self) -> None:
        self.labels = {i: i for i in self._names if not self._beyond(None, (i,))}
        named = {i: self._names[i] for i in self.labels}
        highest = max(self.labels, default=0)
        is_named = any(named.values())
        self.names = [named.get(i, "") for i in range(highest + 1)] if is_named else None

    def _beyond(self, num_classes: int | None, ids: Iterable[int] | None = None) -> list[int]:
        """Return those ids (of annotations by default) that are no labels."""
        end = min(num_classes or _MOST_LABELS, _MOST_LABELS)
        return [i for i in (self._used if ids is None else ids) if not 1 <= i < end]

    def _beyond_text(self, num_classes: int | None) -> str:
        wrong, end = self._beyond(num_classes), num_classes or _MOST_LABELS
        return (
            f"{self._file}: annotations have category_id {wrong[0]!s:.40} ({len(wrong)} such ids), "
            f"but a detector of num_classes {end} has labels 1 to {end - 1}"
        )

    def _name(self, category_id: int) -> str:
        return self._names[category_id] or str(category_id)

    def _check_unique(self) -> None:
        seen: dict[str, int] = {}
        for category_id in self._names:
            name = self._name(category_id)
            if name in seen:
                raise DataError(
                    f"{self._file}: categories {seen[name]} and {category_id} have the same name "
                    f"'{shown(name)}', by which labels go; give each its own"
                )
            seen[name] = category_id
