"""The labels of a run's images: classes by number, which of them are used, and a teacher's."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index.errors import DataError, RunError
from index.sources import scan
from trainer.data import Images
from trainer.objectives import find_method
from trainer.objectives.classify import Classifier
from trainer.pairs import classes_of
from trainer.resampling import at_side
from trainer.settings import PretrainSettings
from trainer.trained import load_trained


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of the images, before training starts.

    Attributes:
        classes: by number, int64 (N,).
        names: of the classes, in the order of their numbers; None where pairs made them.
        chosen: rows of the images whose labels are used, int64 (L,), ascending.
        together: classes of the chosen, where those of a class are to come in one batch.
    """

    classes: Tensor
    names: list[str] | None
    chosen: NDArray[np.int64]
    together: NDArray[np.int64] | None

    @property
    def count(self) -> int:
        """Of classes."""
        return int(self.classes.max()) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of the classes by row and of their names, in hex."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        digest.update(self.classes.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def read_labels(images: Images, evaluation: Images | None, settings: PretrainSettings) -> Labels:
    """The classes by the images' labels, or by a file of pairs.

    Raises:
        DataError: an image has no label, a class has one member alone, or has fewer than are asked
            for; images to evaluate on are of other classes; the file of pairs says what cannot be;
            or fewer images are left than a batch takes.
    """
    if settings.pairs:
        classes, names = classes_of(Path(settings.pairs), _ids(images, settings.data)), None
    else:
        classes, names = _classes(images, settings)
        if evaluation is not None and issubclass(find_method(settings.method), Classifier):
            check_evaluation(names, evaluation, settings.eval_data)
    chosen = chosen_rows(classes, settings.labels, settings.seed, names)
    if len(chosen) < settings.batch_size:
        raise DataError(
            f"labels {settings.labels} leave {len(chosen)} images of {settings.data}, expected at "
            f"least one batch of {settings.batch_size}; see --batch-size"
        )
    together = classes[chosen] if settings.pairs else None
    return Labels(torch.from_numpy(classes), names, chosen, together)


def _ids(images: Images, source: str) -> list[str]:
    """Of the decoded images, in their order."""
    ids = [item.id for item in scan(source, past_damage=True)]
    counts, left_out = Counter(ids), Counter(id_ for id_, _ in images.skipped)
    for name, count in left_out.items():
        if count < counts[name]:
            raise DataError(
                f"{source} has {counts[name]} images {name!r}, of which {count} could not be read; "
                "expected an id of its own for each, by which pairs name it"
            )
    return [name for name in ids if name not in left_out]


def _classes(images: Images, settings: PretrainSettings) -> tuple[NDArray[np.int64], list[str]]:
    if not images.labelled:
        raise DataError(
            f"{settings.data} has images without labels, which {settings.method} learns from"
        )
    names, classes, counts = np.unique(images.labels, return_inverse=True, return_counts=True)
    alone = names[counts == 1]
    if len(alone):
        raise DataError(
            f"{settings.data} has {len(alone)} classes with one image alone, expected at least two "
            f"in each for {settings.method}; the first are {', '.join(alone[:5])}"
        )
    if len(names) < 2 and issubclass(find_method(settings.method), Classifier):
        raise DataError(
            f"{settings.data} has one class, {str(names[0])!r}, expected at least two to tell "
            "apart; the folders that pictures lie in are their classes"
        )
    return classes, names.tolist()


def check_evaluation(names: Sequence[str], evaluation: Images, source: str | None) -> None:
    """Raise DataError where images are of classes that are not among the names."""
    unknown = sorted(set(evaluation.labels) - set(names))
    if unknown:
        raise DataError(
            f"{source} has {len(unknown)} classes that are not learnt; the first are "
            f"{', '.join(unknown[:5])}"
        )


def chosen_rows(
    classes: NDArray[np.int64], labels: str, seed: int, names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """The images whose labels are used, as many of each class as ``labels`` says, ascending.

    Args:
        classes: int64 (N,).
        labels: ``all``, a share of each class such as ``10%``, or a number of images of each.
        seed: of the choice.
        names: of the classes, by number, where they have some.

    Raises:
        DataError: a class has fewer, or would be left with none.
    """
    if labels == "all":
        return np.arange(len(classes))
    random = np.random.default_rng(seed)
    rows = []
    for number in range(classes.max() + 1):
        own = np.flatnonzero(classes == number)
        share = labels.endswith("%")
        count = round(len(own) * float(labels[:-1]) / 100) if share else int(labels)
        if not 1 <= count <= len(own):
            name = number if names is None else repr(names[number])
            least = f"{math.ceil(100 / len(own))}% to 100%" if share else f"1 to {len(own)}"
            raise DataError(
                f"labels is {labels}, which is {count} of the {len(own)} images of class {name}, "
                f"expected {least}"
            )
        rows.append(random.choice(own, count, replace=False))
    return np.sort(np.concatenate(rows))


class Teacher(nn.Module):
    """Logits of pixels in 0 to 1, by a fine-tuned run; in evaluation mode for good."""

    def __init__(self, run: Path, device: torch.device) -> None:
        """Load it.

        Raises:
            RunError: the run has no classifier, or one of classes that pairs made.
        """
        super().__init__()
        trained = load_trained(run)
        objective = trained.network.objective
        if not (isinstance(objective, Classifier) and trained.classes):
            raise RunError(
                f"teacher is {run}, a run of {trained.settings.method} without a classifier of "
                "named classes, expected one of kindred-train finetune"
            )
        network = trained.network.to(device).to(memory_format=torch.channels_last)
        self.network, self.objective = network.requires_grad_(False), objective
        self.size = trained.settings.image_size
        self.names = list(trained.classes)
        self.count = len(self.names)

    def forward(self, x_M3SS: Tensor) -> Tensor:
        """Logits (M, classes)."""
        return self.objective.classify(self.network.represent(at_side(x_M3SS, self.size)))
