"""What of its images a run learns: which take part, in which order, and their classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainer import distributed
from trainer.data import Images
from trainer.hard_batches import grouped
from trainer.labelled import Labels, Teacher, check_evaluation, read_labels
from trainer.loader import sent
from trainer.network import Views
from trainer.objectives.objective import Objective
from trainer.settings import PretrainSettings


@dataclass(frozen=True, eq=False)
class Subject:
    """All images, or those whose labels are used.

    Attributes:
        images: how many there are.
        labels: where the method learns from them.
        names: of the classes that a classifier of the method tells apart.
        numbered: whether the method needs to know which images a batch shows.
        near_NK: rows that are like each row, where batches are full of them.
    """

    images: int
    labels: Labels | None
    names: list[str] | None
    numbered: bool
    near_NK: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """How many take part in an epoch."""
        return self.images if self.labels is None else len(self.labels.chosen)

    def rows(
        self, settings: PretrainSettings, step: int, total_steps: int
    ) -> Iterator[NDArray[np.int64]]:
        """This process's rows of the images, for each step from ``step`` on."""
        share = settings.batch_size // distributed.world_size()
        steps_per_epoch = len(self) // settings.batch_size
        together = None if self.labels is None else self.labels.together
        order = np.empty(0, np.int64)
        for each in range(step, total_steps):
            epoch, place = divmod(each, steps_per_epoch)
            if place == 0 or not len(order):
                random = np.random.default_rng([settings.seed, epoch])
                if self.near_NK is None:
                    order = random.permutation(len(self))
                else:
                    group, batch = settings.group_size, settings.batch_size
                    order = grouped(self.near_NK, group, batch, random)
                if together is not None:
                    turn = random.permutation(together.max() + 1)
                    order = order[np.argsort(turn[together[order]], kind="stable")]
            start = place * settings.batch_size + distributed.rank() * share
            rows = order[start : start + share]
            yield rows if self.labels is None else self.labels.chosen[rows]

    def told(self, views: Views, rows: NDArray[np.int64]) -> Views:
        """The views with what the method needs to know of the images of these rows."""
        rows_N, device = torch.from_numpy(rows), views.pixels_M3SS.device
        if self.labels is not None:
            views = replace(views, labels_N=sent(self.labels.classes[rows_N], device))
        return replace(views, rows_N=sent(rows_N, device)) if self.numbered else views


def prepare(
    objective: Objective,
    images: Images,
    evaluation: Images | None,
    settings: PretrainSettings,
    device: torch.device,
) -> Subject:
    """Tell the objective what there is to learn, and whom from.

    Raises:
        DataError, RunError: it does not suit the method.
    """
    labels = read_labels(images, evaluation, settings) if objective.labelled else None
    objective.prepare(len(images), 0 if labels is None else labels.count)
    names = None if labels is None else labels.names
    if objective.taught:
        teacher = Teacher(Path(str(settings.teacher)), device)
        objective.follow(teacher, teacher.count)
        names = teacher.names
        if evaluation is not None:
            check_evaluation(names, evaluation, settings.eval_data)
    subject = Subject(len(images), labels, names, objective.numbered)
    objective.check(settings.batch_size, len(subject))
    return subject
