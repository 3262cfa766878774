"""`kindred-train evaluate`: how good an exported encoder is, measured through the served file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from index.encoder import Encoder, Encoding
from index.errors import DataError
from trainer import metrics
from trainer.data import Images, load_images
from trainer.settings import refuse_missing, setting
from trainer.views import edited

LARGEST_SPECTRUM = 20_000
"""Rows that RankMe looks at; its singular values settle long before."""


@dataclass(frozen=True)
class EvaluateSettings:
    """What to measure, and on which images."""

    encoder: str = setting("", "encoder file, .onnx")
    data: str = setting("", "images to measure on: folder, zip, Parquet or tar files, or a URL")
    bank: str | None = setting(
        None, "labelled images that kNN and the linear probe learn from [kNN leaves one out]"
    )
    device: str = setting("auto", "provider that encodes: auto, cpu or cuda")

    def __post_init__(self) -> None:
        refuse_missing(self, encoder="an encoder file, .onnx", data="images to measure on")
        if self.device not in ("auto", "cpu", "cuda"):
            raise DataError(f"device is {self.device!r}, expected auto, cpu or cuda")


@dataclass(frozen=True)
class Scores:
    """Figures of one output; ``None`` where there are no labels, or no bank, to measure with.

    Accuracies, recall and mAP are 0 to 1, higher is better; alignment is a squared distance, lower
    is better; uniformity is a log, lower is better; RankMe is a count of dimensions.
    """

    knn: float | None
    recall_at_1: float | None
    mean_average_precision: float | None
    linear_probe: float | None
    alignment: float
    uniformity: float
    rankme: float


@dataclass(frozen=True)
class Evaluation:
    """Figures of both outputs of one encoder."""

    encoder: str
    provider: str
    data: str
    bank: str | None
    images: int
    embedding: Scores
    descriptor: Scores
    skipped: tuple[tuple[str, str], ...]

    def table(self) -> str:
        """The figures as text."""
        names = {
            "knn": f"kNN (k={metrics.KNN_NEIGHBOURS}, temperature {metrics.KNN_TEMPERATURE})",
            "recall_at_1": "recall@1, leave one out",
            "mean_average_precision": "mAP, leave one out",
            "linear_probe": "linear probe",
            "alignment": "alignment of two views (lower is better)",
            "uniformity": "uniformity (lower is better)",
            "rankme": "RankMe",
        }
        embedding, descriptor = asdict(self.embedding), asdict(self.descriptor)
        lines = [
            f"{self.images:,} images of {self.data}, {Path(self.encoder).name} on {self.provider}",
            f"{'':42}{'embedding':>12}{'descriptor':>12}",
        ]
        lines += [
            f"{text:42}{_number(embedding[name])}{_number(descriptor[name])}"
            for name, text in names.items()
        ]
        if self.embedding.knn is None:
            lines.append("-: these need a label of every image")
        elif self.embedding.linear_probe is None:
            lines.append("-: a linear probe needs a --bank to learn from")
        if self.embedding.knn is not None and self.embedding.recall_at_1 is None:
            lines.append("-: no two images have the same label, which recall@1 and mAP need")
        return "\n".join(lines)


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Decode, encode and score, the way the file is served.

    Raises:
        ArtifactError, SourceError, DataError: what was given cannot be measured.
    """
    provider = settings.device
    encoder = Encoder(settings.encoder, provider=provider)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as cache:
        images = load_images(settings.data, encoder.fit, Path(cache, "data"))
        bank = None
        if settings.bank:
            bank = load_images(settings.bank, encoder.fit, Path(cache, "bank"))
            _check_bank(bank, images, settings)
        count = len(images)
        vectors = _encode(encoder, _parts(images.pixels), count, "encoding")
        views = [
            _encode(encoder, edited(images.pixels, seed), count, "encoding views")
            for seed in (0, 1)
        ]
        skipped = images.skipped
        banks: list[tuple[Tensor, NDArray[np.str_]] | None] = [None, None]
        if bank is not None:
            skipped += bank.skipped
            encoded = _encode(encoder, _parts(bank.pixels), len(bank), "encoding the bank")
            banks = [(output, bank.labels) for output in encoded]
        labels = images.labels if images.labelled else None
        embedding, descriptor = (
            score(vectors[output], labels, (views[0][output], views[1][output]), banks[output])
            for output in (0, 1)
        )
    return Evaluation(
        settings.encoder, encoder.provider, settings.data, settings.bank, len(images),
        embedding, descriptor, skipped,
    )  # fmt: skip


def _check_bank(bank: Images, images: Images, settings: EvaluateSettings) -> None:
    if not (images.labelled and bank.labelled):
        raise DataError("a bank needs labels, on its own images and on those measured")
    if bank.digest == images.digest:
        raise DataError(
            f"the bank {settings.bank} holds the very images of {settings.data}, expected others: "
            "each would find itself; without --bank kNN leaves each image out for itself"
        )


def score(
    x_ND: Tensor,
    labels: NDArray[np.str_] | None,
    views: tuple[Tensor, Tensor],
    bank: tuple[Tensor, NDArray[np.str_]] | None = None,
) -> Scores:
    """All figures of one output, from vectors of unit length."""
    knn = recall = average = probe = None
    if labels is not None:
        (y,) = metrics.joint_labels(labels)
        if len(np.unique(labels)) < len(labels):
            found = metrics.retrieval(x_ND, y)
            recall, average = found.recall_at_1, found.mean_average_precision
        knn = metrics.weighted_knn(x_ND, y, x_ND, y, leave_one_out=True)
        if bank is not None:
            y, bank_y = metrics.joint_labels(labels, bank[1])
            knn = metrics.weighted_knn(x_ND, y, bank[0], bank_y)
            probe = metrics.linear_probe(bank[0], bank_y, x_ND, y)
    rows = np.linspace(0, len(x_ND) - 1, min(len(x_ND), LARGEST_SPECTRUM)).astype(int)
    spectrum = metrics.rankme(x_ND[rows])
    even, spread = metrics.alignment(*views), metrics.uniformity(x_ND)
    return Scores(knn, recall, average, probe, even, spread, spectrum)


def _number(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:>12.4f}"


def _parts(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pixels[row : row + 256] for row in range(0, len(pixels), 256))


def _encode(
    encoder: Encoder, parts: Iterable[NDArray[np.uint8]], count: int, what: str
) -> tuple[Tensor, Tensor]:
    """Both outputs, float32 on the CPU, of ``count`` images that come a part at a time."""
    encodings = []
    with tqdm(total=count, desc=what, unit="image", leave=False) as bar:
        for pixels in parts:
            encodings.append(encoder.encode(pixels))
            bar.update(len(pixels))
    encoding = Encoding.concatenate(encodings)
    return torch.from_numpy(encoding.embedding), torch.from_numpy(encoding.descriptor)
