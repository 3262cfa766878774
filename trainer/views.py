"""Random views of images, made in batches on the device, every parameter drawn per sample.

The augmentations are SimCLR's (Chen et al. 2020, appendix A): crop and resize, flip, colour
distortion (jitter in random order, then grey), Gaussian blur; and BYOL's solarising (Grill et al.
2020, appendix B), for methods that use it. Each operation has a function that
takes explicit parameters, which the tests hold against torchvision's at equal parameters.

Shape suffixes: N samples, C = 3, H W stored height and width, S side of a view, P uniforms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.colour import grey, jitter
from trainer.compiler import compiled
from trainer.draw import Draw, in_parts
from trainer.resampling import blur_taps, crop_resize_flip, separable

UNIFORMS = 35
"""Uniforms that a view takes for its parameters, and one more where it may be solarised."""

PATCHES = 9
"""Of a jigsaw, three by three."""

_CELL = 85 / 64
"""How much longer a side of a jigsaw's cell is than of the patch that is cut from it (Misra and van
der Maaten 2020, section 3.2)."""


@dataclass(frozen=True)
class ViewSettings:
    """Strengths and probabilities of the augmentations.

    ``published`` gives the paper's for the size of image: on CIFAR it halves the colour strength
    and leaves out blur (appendix B.9).
    """

    size: int
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    jitter_strength: float = 1.0
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"view size is {self.size}, expected at least 8 pixels")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop area is {self.crop_area}, expected 0 < low <= high <= 1")
        for name in ("flip", "jitter", "grey", "blur", "solarize"):
            probability = getattr(self, f"{name}_probability")
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} probability is {probability}, expected 0 to 1")
        if not 0 <= self.jitter_strength <= 1.25:  # above it brightness factors turn negative
            raise ValueError(f"jitter strength is {self.jitter_strength}, expected 0 to 1.25")

    @classmethod
    def published(cls, size: int) -> ViewSettings:
        """The paper's CIFAR settings up to 40 pixels, its ImageNet settings above."""
        if size <= 40:
            return cls(size, jitter_strength=0.5, blur_probability=0.0)
        return cls(size)

    @classmethod
    def cropped(cls, size: int) -> ViewSettings:
        """Parts of an image, mirrored or not, and nothing else."""
        return cls(
            size, crop_area=(0.3, 1.0), jitter_probability=0.0, grey_probability=0.0,
            blur_probability=0.0,
        )  # fmt: skip


def make_views(
    images_NCHW: Tensor,
    settings: ViewSettings,
    generator: torch.Generator,
    compile: bool = False,
) -> Tensor:
    """One random view of each image.

    Args:
        images_NCHW: uint8 (N, 3, H, W), on the device of ``generator``.
        compile: by what torch.compile makes of ``show_views``.

    Returns:
        float32 (N, 3, S, S) in 0 to 1.
    """
    uniforms = UNIFORMS + bool(settings.solarize_probability)
    shape = (len(images_NCHW), uniforms)
    unit_NP = torch.rand(shape, generator=generator, device=generator.device)
    show = compiled(show_views) if compile else show_views
    return in_parts(partial(show, settings=settings), images_NCHW, unit_NP)


def make_jigsaws(
    images_NCHW: Tensor,
    settings: ViewSettings,
    generator: torch.Generator,
    compile: bool = False,
) -> Tensor:
    """The patches of one random view of each image, which is cut into three by three cells.

    Each patch lies somewhere in its cell, so that edges do not tell what was beside it.

    Args:
        images_NCHW: uint8 (N, 3, H, W), on the device of ``generator``.
        settings: of the view, but that ``size`` is the side of a patch.

    Returns:
        float32 (9N, 3, S, S) in 0 to 1: a patch of each image, then another of each; which one
        comes first is random for each image.
    """
    side, device = settings.size, generator.device
    cell = round(_CELL * side)
    views = make_views(images_NCHW, replace(settings, size=3 * cell), generator, compile)
    n = len(views)
    cells = (
        views.view(n, 3, 3, cell, 3, cell).permute(0, 2, 4, 1, 3, 5).reshape(n, 9, 3, cell, cell)
    )
    order_N9 = torch.rand((n, PATCHES), generator=generator, device=device).argsort(dim=1)
    corners = torch.randint(cell - side + 1, (2, n, PATCHES, 1), generator=generator, device=device)
    along = torch.arange(side, device=device)
    rows, columns = corners[0] + along, corners[1] + along  # (N, 9, S) each
    images = torch.arange(n, device=device)[:, None, None, None]
    # The dimensions that are picked come first, the channels after them.
    patches = cells[images, order_N9[:, :, None, None], :, rows[..., None], columns[:, :, None, :]]
    return patches.permute(1, 0, 4, 2, 3).flatten(0, 1)


def show_views(images_NCHW: Tensor, unit_NP: Tensor, settings: ViewSettings) -> Tensor:
    """``make_views`` as a pure function, which torch.compile takes as one graph.

    Args:
        unit_NP: float32 (N, UNIFORMS), uniform in 0 to 1: all that is random.
    """
    height, width = images_NCHW.shape[2:]
    draw = Draw(unit_NP)
    boxes_N4 = draw.crop_boxes(height, width, settings.crop_area, settings.crop_ratio)
    flips_N = draw.chance(settings.flip_probability)
    x = crop_resize_flip(images_NCHW, boxes_N4, flips_N, settings.size)

    if settings.jitter_probability:
        x = random_jitter(x, draw, settings.jitter_strength, settings.jitter_probability)
    if settings.grey_probability:
        x = torch.where(draw.chance(settings.grey_probability)[:, None, None, None], grey(x), x)
    if settings.blur_probability:
        sigmas_N = draw.uniform(*settings.blur_sigma)
        x = blur(x, sigmas_N, draw.chance(settings.blur_probability))
    if settings.solarize_probability:
        drawn_N = draw.chance(settings.solarize_probability)
        x = torch.where(drawn_N[:, None, None, None] & (x >= 0.5), 1 - x, x)
    return x.clamp(0, 1)  # sums of weights are 1 but for rounding


def random_jitter(x_NCSS: Tensor, draw: Draw, strength: float, probability: float) -> Tensor:
    """Colour jitter of the paper's ranges (appendix A) at a strength, in random order."""
    reach = 0.8 * strength
    blends = [draw.uniform(max(0.0, 1 - reach), 1 + reach) for _ in range(3)]
    hue_N = draw.uniform(-0.2 * strength, 0.2 * strength)
    factors_N4 = torch.stack([*blends, hue_N], dim=1)
    return jitter(x_NCSS, factors_N4, draw.permutations(4), draw.chance(probability))


def blur(x_NCSS: Tensor, sigma_N: Tensor, apply_N: Tensor) -> Tensor:
    """Gaussian blur over a tenth of the side (appendix A), edges reflected.

    Args:
        sigma_N: standard deviation in pixels.
    """
    size = x_NCSS.shape[3]
    taps = blur_taps(torch.where(apply_N, sigma_N, 0.0), size, radius=size // 20)
    return separable(x_NCSS, taps, taps)


def edited(pixels_NSSC: NDArray[np.uint8], seed: int) -> Iterator[NDArray[np.uint8]]:
    """One view of each picture by the paper's augmentations: parts of it, uint8 (B, S, S, 3)."""
    generator = torch.Generator().manual_seed(seed)
    settings = ViewSettings.published(pixels_NSSC.shape[1])
    for start in range(0, len(pixels_NSSC), 512):
        batch = torch.from_numpy(pixels_NSSC[start : start + 512]).permute(0, 3, 1, 2)
        views = make_views(batch, settings, generator)
        yield (views.permute(0, 2, 3, 1) * 255).round().byte().numpy()
