"""What a network makes of the sample: figures of both outputs, and what they overlook.

Vectors are the network's own, h and the descriptor brought to unit length, before the whitening
that export adds. Shape suffixes: N pictures, P and S their sides as kept and as the network takes
them, D width.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.image import Fit, fit_pixels
from trainer.evaluate import Scores, score
from trainer.network import Network
from trainer.report.labels import Fraction, label_fractions
from trainer.report.sample import Sample
from trainer.report.transformations import Transformation, transformations
from trainer.trained import Trained
from trainer.views import ViewSettings, make_views

OUTPUTS = ("embedding", "descriptor")
MOST_TRANSFORMED = 256
"""Pictures that each transformation is shown on."""
BATCH = 128


@dataclass(frozen=True)
class Held:
    """How an output holds a transformation t: 1 for both is to overlook it.

    Attributes:
        cosine: mean of x with t(x).
        triples: share of all x and other pictures y with cosine(x, t(x)) > cosine(x, y).
    """

    cosine: float
    triples: float


@dataclass(frozen=True)
class Invariance:
    """How both outputs hold one transformation."""

    kind: str
    name: str
    embedding: Held
    descriptor: Held


@dataclass(frozen=True, eq=False)
class Measured:
    """What one network makes of the sample.

    Attributes:
        vectors: float32 (N, D) of unit length on the CPU, by output.
        scores: by output.
        unrelated: mean cosine of two different pictures, by output.
    """

    vectors: dict[str, Tensor]
    scores: dict[str, Scores]
    unrelated: dict[str, float]
    invariance: tuple[Invariance, ...]
    fractions: tuple[Fraction, ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """A run on the page that has a network, and what that makes of the sample.

    Attributes:
        number: the run's place on the page, and so its colour.
        title: what stands for it where two runs are on the page, HTML.
    """

    number: int
    name: str
    title: str
    measured: Measured


def measure(
    trained: Trained,
    sample: Sample,
    device: torch.device,
    seed: int,
    progress: Callable[[int], object],
) -> Measured:
    """Encode the sample and its transformed pictures, and take all figures.

    Args:
        progress: is told of each batch that was encoded.
    """
    network, size = trained.network.to(device), trained.settings.image_size
    published, few = ViewSettings.published(size), min(len(sample), MOST_TRANSFORMED)

    def views(which: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed + which)
        show = partial(make_views, settings=published, generator=generator)
        return _encoded(network, sample, len(sample), show, progress)

    def transformed(by: Transformation) -> list[Tensor]:
        show = partial(by.show, generator=_generator(seed, by.name))
        return _encoded(network, sample, few, show, progress)

    plain = _encoded(network, sample, len(sample), partial(_fitted, size=size), progress)
    pair = views(0), views(1)
    labels = _comparable(sample.labels)
    invariance = [
        Invariance(
            each.kind,
            each.name,
            *(held(x[:few], y) for x, y in zip(plain, transformed(each), strict=True)),
        )
        for each in transformations(size)
    ]
    return Measured(
        vectors=dict(zip(OUTPUTS, plain, strict=True)),
        scores={
            output: score(plain[row], labels, (pair[0][row], pair[1][row]))
            for row, output in enumerate(OUTPUTS)
        },
        unrelated={name: mean_cosine(x) for name, x in zip(OUTPUTS, plain, strict=True)},
        invariance=tuple(invariance),
        fractions=() if labels is None else label_fractions(plain[0], labels, seed),
    )


def held(x_ND: Tensor, changed_ND: Tensor) -> Held:
    """How vectors (N, D) of unit length hold what makes ``changed_ND`` of them."""
    own_N1 = (x_ND * changed_ND).sum(1, keepdim=True)
    others_NN = x_ND @ x_ND.T
    beaten = int((own_N1 > others_NN).fill_diagonal_(False).sum())
    return Held(float(own_N1.mean()), beaten / (len(x_ND) * (len(x_ND) - 1)))


def mean_cosine(x_ND: Tensor) -> float:
    """Mean cosine over all pairs of different pictures: by their sum, since rows have length 1."""
    n = len(x_ND)
    return float((x_ND.double().sum(0).square().sum() - n) / (n * (n - 1)))


def examples(sample: Sample, size: int, count: int, seed: int) -> NDArray[np.uint8]:
    """The first pictures under each transformation, uint8 (T x count, S, S, 3)."""
    pictures = _planes(sample.pixels(0, BATCH))
    parts = [
        each.show(pictures, generator=_generator(seed, each.name))[:count]
        for each in transformations(size)
    ]
    return _bytes(torch.cat(parts)).permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def _encoded(
    network: Network,
    sample: Sample,
    count: int,
    show: Callable[[Tensor], Tensor],
    progress: Callable[[int], object],
) -> list[Tensor]:
    """Both outputs of what ``show`` makes of the first pictures, rounded to 8 bits as in files."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, count, BATCH):
        shown = _bytes(show(_planes(sample.pixels(start, min(start + BATCH, count)))))
        parts.append(network.encode(shown.permute(0, 2, 3, 1).to(device)))
        progress(1)
    return [torch.cat(each).float().cpu() for each in zip(*parts, strict=True)]


def _planes(pixels_NPPC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(pixels_NPPC)).permute(0, 3, 1, 2)


def _bytes(x_NCSS: Tensor) -> Tensor:
    return x_NCSS if x_NCSS.dtype == torch.uint8 else (x_NCSS * 255).round().byte()


def _fitted(x_NCPP: Tensor, size: int) -> Tensor:
    """As pictures are fitted that come in to be searched."""
    rows = x_NCPP.permute(0, 2, 3, 1).contiguous().numpy()
    return _planes(np.stack([fit_pixels(row, Fit(size)) for row in rows]))


def _generator(seed: int, name: str) -> torch.Generator:
    """Of one transformation, so that every run is shown the same pictures."""
    return torch.Generator().manual_seed((seed << 32) + zlib.crc32(name.encode()))


def _comparable(labels: NDArray[np.str_] | None) -> NDArray[np.str_] | None:
    """The labels, where two pictures or more have the same."""
    return None if labels is None or len(np.unique(labels)) == len(labels) else labels
