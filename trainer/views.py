"""Two random views of each image, made in batches on the device, every parameter drawn per sample.

The augmentations are SimCLR's (Chen et al. 2020, appendix A): crop and resize, flip, colour
distortion (jitter in random order, then grey), Gaussian blur. Each operation has a function that
takes explicit parameters, which the tests hold against torchvision's at equal parameters.

Resizing and blurring are linear and separable, so each is a pair of small matrices per sample,
applied as batched products: exact antialiasing for any crop, and fast on CPU and GPU alike.

Shape suffixes: N samples, C = 3, H W stored height and width, S side of a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds them
CROP_TRIES = 10


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

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"view size is {self.size}, expected at least 8 pixels")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop area is {self.crop_area}, expected 0 < low <= high <= 1")
        for name in ("flip", "jitter", "grey", "blur"):
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


def make_views(images_NCHW: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        images_NCHW: uint8 (N, 3, H, W), on the device of ``generator``.

    Returns:
        float32 (N, 3, S, S) in 0 to 1.
    """
    n, _, height, width = images_NCHW.shape
    draw = _Draw(n, generator)
    boxes_N4 = draw.crop_boxes(height, width, settings.crop_area, settings.crop_ratio)
    flips_N = draw.chance(settings.flip_probability)
    x = crop_resize_flip(images_NCHW.float().div_(255), boxes_N4, flips_N, settings.size)

    if settings.jitter_probability:
        reach = 0.8 * settings.jitter_strength
        factors_N4 = torch.stack(
            [
                draw.uniform(max(0.0, 1 - reach), 1 + reach),
                draw.uniform(max(0.0, 1 - reach), 1 + reach),
                draw.uniform(max(0.0, 1 - reach), 1 + reach),
                draw.uniform(-0.2 * settings.jitter_strength, 0.2 * settings.jitter_strength),
            ],
            dim=1,
        )
        order_N4 = draw.permutations(4)
        x = jitter(x, factors_N4, order_N4, draw.chance(settings.jitter_probability))
    if settings.grey_probability:
        x = torch.where(draw.chance(settings.grey_probability)[:, None, None, None], grey(x), x)
    if settings.blur_probability:
        sigmas_N = draw.uniform(*settings.blur_sigma)
        x = blur(x, sigmas_N, draw.chance(settings.blur_probability))
    return x


def edited(pixels_NSSC: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """One view of each picture by the paper's augmentations, as pixels: uint8 (N, S, S, 3)."""
    generator = torch.Generator().manual_seed(seed)
    settings = ViewSettings.published(pixels_NSSC.shape[1])
    parts = []
    for start in range(0, len(pixels_NSSC), 512):
        batch = torch.from_numpy(pixels_NSSC[start : start + 512]).permute(0, 3, 1, 2)
        views = make_views(batch, settings, generator)
        parts.append((views.permute(0, 2, 3, 1) * 255).round().byte().numpy())
    return np.concatenate(parts)


class _Draw:
    """Random parameters for N samples from one generator."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(self.n, *shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * unit

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability

    def permutations(self, length: int) -> Tensor:
        return self.uniform(0, 1, length).argsort(dim=1)

    def crop_boxes(
        self, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
    ) -> Tensor:
        """Boxes (N, 4): top, left, height, width in whole pixels, as RandomResizedCrop draws them.

        Of ten tries the first that fits; where none does, the whole image.
        """
        areas = height * width * self.uniform(*area, CROP_TRIES)
        logs = torch.tensor(ratio).log().tolist()
        ratios = self.uniform(logs[0], logs[1], CROP_TRIES).exp()
        widths = (areas * ratios).sqrt().round()
        heights = (areas / ratios).sqrt().round()
        fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
        first = fits.float().argmax(dim=1, keepdim=True)  # argmax gives the first of equal values
        any_fits = fits.any(dim=1)
        h = torch.where(any_fits, heights.gather(1, first)[:, 0], float(height))
        w = torch.where(any_fits, widths.gather(1, first)[:, 0], float(width))
        top = (self.uniform(0, 1) * (height - h + 1)).floor()
        left = (self.uniform(0, 1) * (width - w + 1)).floor()
        return torch.stack([top, left, h, w], dim=1)


def crop_resize_flip(x_NCHW: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: int) -> Tensor:
    """Cut each box out, resize it with antialiasing, and mirror it where flips_N is true.

    Equal to torchvision's ``resized_crop`` with bilinear interpolation and antialiasing.
    """
    top, left, height, width = boxes_N4.unbind(1)
    rows_NSH = _resize_matrix(top, height, x_NCHW.shape[2], size)
    columns_NSW = _resize_matrix(left, width, x_NCHW.shape[3], size)
    columns_NSW = torch.where(flips_N[:, None, None], columns_NSW.flip(1), columns_NSW)
    return _separable(x_NCHW, rows_NSH, columns_NSW)


def _resize_matrix(start_N: Tensor, length_N: Tensor, full: int, size: int) -> Tensor:
    """Weights (N, size, full) of a triangle filter that is as wide as the reduction needs."""
    device = start_N.device
    scale = (length_N / size)[:, None, None]
    centre = (torch.arange(size, device=device)[None, :, None] + 0.5) * scale
    position = torch.arange(full, device=device)[None, None, :] - start_N[:, None, None]
    weight = (1 - (position + 0.5 - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    inside = (position >= 0) & (position < length_N[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=2, keepdim=True)


def _separable(x_NCHW: Tensor, rows_NSH: Tensor, columns_NTW: Tensor) -> Tensor:
    """Apply a matrix to the rows and one to the columns of each sample: (N, C, S, T)."""
    return rows_NSH[:, None] @ (x_NCHW @ columns_NTW[:, None].transpose(2, 3))


def jitter(x_NCSS: Tensor, factors_N4: Tensor, order_N4: Tensor, apply_N: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of each sample, in the sample's own order.

    Args:
        factors_N4: factors of the first three (1 changes nothing), and the hue's shift in turns.
        order_N4: permutation of 0 to 3 a sample; the operation in column 0 comes first.
        apply_N: where false the sample stays as it is.
    """
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    x = x_NCSS.clone()
    for place in range(4):
        for index, operation in enumerate(operations):
            rows = torch.nonzero(apply_N & (order_N4[:, place] == index))[:, 0]
            if len(rows):
                x[rows] = operation(x[rows], factors_N4[rows, index])
    return x


def grey(x_NCSS: Tensor) -> Tensor:
    """Luma in all three channels."""
    return _luma(x_NCSS).expand_as(x_NCSS)


def _luma(x_NCSS: Tensor) -> Tensor:
    red, green, blue = x_NCSS.unbind(1)
    r, g, b = GREY_WEIGHTS
    return (r * red + g * green + b * blue)[:, None]


def _blend(x_NCSS: Tensor, other: Tensor, factor_N: Tensor) -> Tensor:
    factor = factor_N[:, None, None, None]
    return (factor * x_NCSS + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(x_NCSS: Tensor, factor_N: Tensor) -> Tensor:
    """Scale towards black."""
    return (x_NCSS * factor_N[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(x_NCSS: Tensor, factor_N: Tensor) -> Tensor:
    """Blend with the sample's mean luma."""
    return _blend(x_NCSS, _luma(x_NCSS).mean(dim=(1, 2, 3), keepdim=True), factor_N)


def adjust_saturation(x_NCSS: Tensor, factor_N: Tensor) -> Tensor:
    """Blend with the luma."""
    return _blend(x_NCSS, _luma(x_NCSS), factor_N)


def adjust_hue(x_NCSS: Tensor, shift_N: Tensor) -> Tensor:
    """Turn the hue of HSV by ``shift_N`` turns, value and saturation kept."""
    red, green, blue = x_NCSS.unbind(1)
    value = x_NCSS.amax(dim=1)
    chroma = value - x_NCSS.amin(dim=1)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * shift_N[:, None, None]  # in sixths of a turn
    # channel = V - C max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6, n = 5, 3, 1 for R, G, B
    channels = []
    for n in (5, 3, 1):
        k = (hue + n) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1).clamp_(0, 1)


def blur(x_NCSS: Tensor, sigma_N: Tensor, apply_N: Tensor) -> Tensor:
    """Gaussian blur over a tenth of the side (appendix A), edges reflected.

    Args:
        sigma_N: standard deviation in pixels.
    """
    size = x_NCSS.shape[3]
    radius = size // 20
    offsets = torch.arange(-radius, radius + 1, device=x_NCSS.device)
    kernels_NK = torch.exp(-0.5 * (offsets / sigma_N[:, None]) ** 2)
    kernels_NK = kernels_NK / kernels_NK.sum(dim=1, keepdim=True)
    identity_K = (offsets == 0).float()
    kernels_NK = torch.where(apply_N[:, None], kernels_NK, identity_K)
    # Where tap k of output s falls, with reflection about the outermost pixels.
    taps_SK = torch.arange(size, device=x_NCSS.device)[:, None] + offsets
    taps_SK = (size - 1) - ((size - 1) - taps_SK.abs()).abs()
    placed_SKS = functional.one_hot(taps_SK, size).float()
    matrix_NSS = torch.einsum("nk,skt->nst", kernels_NK, placed_SKS)
    return _separable(x_NCSS, matrix_NSS, matrix_NSS)
