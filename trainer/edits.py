"""Strong edits of images, as people make them who pass a picture on; in batches on the device.

The kinds are those that SSCD trains with (Pizzi et al. 2022, arXiv:2202.10261, section 4.3 and
appendix), each with its own probability and its own parameters per sample, in the order in which
they happen to a picture: it is cropped, turned and recoloured, framed and written upon, then made
small, noisy and blocky. Whatever comes together, at least ``LEAST_VISIBLE`` of the image stays
visible.

Shape suffixes: N samples, K samples that an edit is for, C = 3, H W stored height and width, S side
of a view, P uniforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.colour import grey
from trainer.compiler import compiled
from trainer.draw import Draw, in_parts, room
from trainer.jpeg import jpeg
from trainer.resampling import (
    blur_taps,
    crop_resize_flip,
    opaque,
    over,
    place,
    quarter_turns,
    rotate,
    separable,
    shrink_and_enlarge,
)
from trainer.stickers import STRIP_HEIGHT, Stickers, stickers
from trainer.views import random_jitter

LEAST_VISIBLE = 0.3
"""Share of the image that no edit may crop away or cover."""

TURNING_CUTS = 0.172
"""Share of a square that turning it by 45 degrees within its own bounds cuts off: 3 - 2 sqrt 2."""

UNIFORMS = 113
"""Uniforms that an edited view takes for its parameters."""


@dataclass(frozen=True)
class EditSettings:
    """Strengths and probabilities of the edits; ranges are drawn from uniformly.

    Lengths are shares of the side of a view, so that they mean the same at any size.

    Attributes:
        size: side of the views in pixels.
    """

    size: int
    crop_probability: float = 0.8
    crop_area: tuple[float, float] = (LEAST_VISIBLE, 1.0)
    crop_ratio: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5
    rotation_probability: float = 0.15
    rotation_degrees: tuple[float, float] = (-180.0, 180.0)
    quarter_turn_probability: float = 0.12
    jitter_probability: float = 0.5
    jitter_strength: float = 0.7
    grey_probability: float = 0.12
    padding_probability: float = 0.15
    padding_scale: tuple[float, float] = (0.5, 0.95)
    overlay_probability: float = 0.2
    overlay_side: tuple[float, float] = (0.15, 0.45)
    overlay_opacity: tuple[float, float] = (0.5, 1.0)
    banner_probability: float = 0.12
    banner_share: tuple[float, float] = (0.05, 0.25)
    text_probability: float = 0.25
    text_height: tuple[float, float] = (0.06, 0.2)
    text_opacity: tuple[float, float] = (0.6, 1.0)
    blur_probability: float = 0.25
    blur_sigma: tuple[float, float] = (0.004, 0.03)
    shrink_probability: float = 0.2
    shrink_side: tuple[float, float] = (0.2, 0.7)
    noise_probability: float = 0.1
    noise_deviation: tuple[float, float] = (0.01, 0.08)
    jpeg_probability: float = 0.4
    jpeg_quality: tuple[float, float] = (10.0, 95.0)

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"view size is {self.size}, expected at least 8 pixels")
        for each in fields(self):
            value = getattr(self, each.name)
            words = each.name.replace("_", " ")
            if each.name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{words} is {value}, expected 0 to 1")
            if isinstance(value, tuple) and not value[0] <= value[1]:
                raise ValueError(f"{words} is {value}, expected low <= high")
        if not LEAST_VISIBLE <= self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop area is {self.crop_area}, expected {LEAST_VISIBLE} to 1")
        for name in ("padding_scale", "overlay_side", "banner_share", "text_height", "shrink_side"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                words = name.replace("_", " ")
                raise ValueError(f"{words} is {(low, high)}, expected above 0, at most 1")
        if not 0 <= self.jitter_strength <= 1.25:
            raise ValueError(f"jitter strength is {self.jitter_strength}, expected 0 to 1.25")


@torch.no_grad()
def make_edits(
    images_NCHW: Tensor,
    settings: EditSettings,
    generator: torch.Generator,
    compile: bool = False,
) -> Tensor:
    """One strongly edited view of each image.

    Args:
        images_NCHW: uint8 (N, 3, H, W), on the device of ``generator``.
        compile: by what torch.compile makes of ``show_edits``.

    Returns:
        float32 (N, 3, S, S) in 0 to 1.
    """
    n, device = len(images_NCHW), generator.device
    unit_NP = torch.rand(n, UNIFORMS, generator=generator, device=device)
    noisy = room(n, settings.noise_probability)
    shape = (noisy, 3, settings.size, settings.size)
    normal_KCSS = torch.randn(shape, generator=generator, device=device)
    show = compiled(show_edits) if compile else show_edits
    return show(images_NCHW, unit_NP, normal_KCSS, stickers(device), settings)


def show_edits(
    images_NCHW: Tensor,
    unit_NP: Tensor,
    normal_KCSS: Tensor,
    pasted: Stickers,
    settings: EditSettings,
) -> Tensor:
    """``make_edits`` as a pure function of all that is random, one graph for torch.compile.

    Args:
        unit_NP: float32 (N, UNIFORMS), uniform in 0 to 1.
        normal_KCSS: float32, standard normal: the noise of those that get some.
    """
    draw = Draw(unit_NP)
    canvas = crop(images_NCHW, draw, settings)
    edits = Edits(settings, pasted, originals_NCSS=canvas.x_NCSS.clone(), normal_KCSS=normal_KCSS)
    for name in (
        "rotation", "jitter", "grey", "overlay", "padding", "banner", "text", "quarter_turn",
        "blur", "shrink", "noise", "jpeg",
    ):  # fmt: skip
        probability = getattr(settings, f"{name}_probability")
        canvas = draw.sometimes(canvas, probability, getattr(edits, name))
    return canvas.x_NCSS.clamp(0, 1)  # sums of weights are 1 but for rounding


class Canvas(NamedTuple):
    """Pictures that are being edited.

    Attributes:
        x_NCSS: float32 in 0 to 1.
        spare_N: share of the canvas that may yet be covered or cut off.
        other_N: number of another image of the batch, int64, to be seen beside or upon this one.
    """

    x_NCSS: Tensor
    spare_N: Tensor
    other_N: Tensor


def crop(images_NCHW: Tensor, draw: Draw, settings: EditSettings) -> Canvas:
    """Cut some images and flip some, and stretch all to the size of a view."""
    n, _, height, width = images_NCHW.shape
    boxes_N4 = draw.crop_boxes(height, width, settings.crop_area, settings.crop_ratio)
    cropped_N1 = draw.chance(settings.crop_probability)[:, None]
    zero_N = torch.zeros_like(boxes_N4[:, 0])
    whole_N4 = torch.stack([zero_N, zero_N, zero_N + height, zero_N + width], dim=1)
    boxes_N4 = torch.where(cropped_N1, boxes_N4, whole_N4)
    flips_N = draw.chance(settings.flip_probability)
    x_NCSS = in_parts(partial(crop_resize_flip, size=settings.size), images_NCHW, boxes_N4, flips_N)
    kept_N = boxes_N4[:, 2] * boxes_N4[:, 3] / (height * width)
    spare_N = (1 - LEAST_VISIBLE / kept_N).clamp(min=0)
    numbers_N = torch.arange(n, device=x_NCSS.device)
    other_N = (numbers_N + 1 + draw.choice(max(1, n - 1))) % n
    return Canvas(x_NCSS, spare_N, other_N)


class Edits:
    """The edits: each takes the pictures that it was drawn for and their parameters.

    The probability of each is the setting of its name.
    """

    def __init__(
        self,
        settings: EditSettings,
        pasted: Stickers,
        originals_NCSS: Tensor,
        normal_KCSS: Tensor,
    ) -> None:
        self.settings, self.pasted = settings, pasted
        self.originals_NCSS, self.normal_KCSS = originals_NCSS, normal_KCSS

    def rotation(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Turn by any angle, with corners cut off or all of the picture in sight."""
        angle_K = draw.uniform(*self.settings.rotation_degrees).deg2rad()
        fill_K3, reflected_K = _colours(draw), draw.chance(0.3)
        cut_K = draw.chance(0.6) & (canvas.spare_N > TURNING_CUTS)
        zoom_K = torch.where(cut_K, 1.0, angle_K.cos().abs() + angle_K.sin().abs())
        x_KCSS = rotate(canvas.x_NCSS, angle_K, zoom_K, fill_K3, reflected_K)
        spare_K = (canvas.spare_N - TURNING_CUTS * cut_K) / zoom_K**2
        return canvas._replace(x_NCSS=x_KCSS, spare_N=spare_K)

    def jitter(self, canvas: Canvas, draw: Draw) -> Canvas:
        """SimCLR's colour jitter."""
        x_KCSS = random_jitter(canvas.x_NCSS, draw, self.settings.jitter_strength, 1.0)
        return canvas._replace(x_NCSS=x_KCSS)

    def grey(self, canvas: Canvas, draw: Draw) -> Canvas:  # noqa: ARG002 (it has no parameters)
        """Take the colour out."""
        return canvas._replace(x_NCSS=grey(canvas.x_NCSS))

    def overlay(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Paste another image of the batch, or a shape, small upon the picture."""
        size = self.settings.size
        low, high = self.settings.overlay_side
        height_K, width_K = draw.uniform(low, high), draw.uniform(low, high)
        fits_K = (canvas.spare_N / (height_K * width_K)).clamp(0, 1).sqrt()
        box_K4 = _box(draw, height_K * fits_K, width_K * fits_K, size)
        another_KCSS = self.originals_NCSS.index_select(0, canvas.other_N)
        shapes = self.pasted.shapes
        shape_KCHW = shapes.index_select(0, draw.choice(len(shapes)))
        is_shape_K111 = draw.chance(0.5)[:, None, None, None]
        pasted_K4SS = torch.where(
            is_shape_K111,
            place(shape_KCHW, box_K4, size),
            place(opaque(another_KCSS), box_K4, size),
        )
        x_KCSS = over(canvas.x_NCSS, pasted_K4SS, draw.uniform(*self.settings.overlay_opacity))
        spare_K = canvas.spare_N - height_K * width_K * fits_K**2
        return canvas._replace(x_NCSS=x_KCSS, spare_N=spare_K)

    def padding(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Shrink the picture onto a background with bars, as in a screenshot."""
        size = self.settings.size
        low, high = self.settings.padding_scale
        height_K, width_K = draw.uniform(low, high), draw.uniform(low, high)
        box_K4 = _box(draw, height_K, width_K, size)
        another_KCSS = self.originals_NCSS.index_select(0, canvas.other_N)
        striped_KCSS = stripes(size, _colours(draw), _colours(draw), draw.unit(3))
        plain_KC11 = _colours(draw)[:, :, None, None]
        kind_K111 = draw.uniform(0, 1)[:, None, None, None]
        x_KCSS = torch.where(kind_K111 < 0.35, another_KCSS, plain_KC11)
        x_KCSS = torch.where(kind_K111 > 0.8, striped_KCSS, x_KCSS)
        for side in (0, 1):  # above and below
            share_K = draw.uniform(0.04, 0.15) * draw.chance(0.5)
            x_KCSS = banner(x_KCSS, torch.full_like(canvas.other_N, side), share_K, _colours(draw))
        placed_K4SS = place(opaque(canvas.x_NCSS), box_K4, size)
        x_KCSS = over(x_KCSS, placed_K4SS, torch.ones_like(height_K))
        return canvas._replace(x_NCSS=x_KCSS, spare_N=canvas.spare_N * height_K * width_K)

    def banner(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Cover one side with a plain band."""
        share_K = torch.minimum(draw.uniform(*self.settings.banner_share), canvas.spare_N)
        x_KCSS = banner(canvas.x_NCSS, draw.choice(4), share_K, _colours(draw))
        return canvas._replace(x_NCSS=x_KCSS, spare_N=canvas.spare_N - share_K)

    def text(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Write a line upon the picture."""
        size = self.settings.size
        _, strips, widths, inks = self.pasted
        which_K = draw.choice(len(strips))
        aspect_K = widths.index_select(0, which_K) / STRIP_HEIGHT
        height_K = draw.uniform(*self.settings.text_height)
        inked_K = height_K**2 * aspect_K * inks.index_select(0, which_K)
        # Letters keep their shape; the line fits on the picture and into what may be covered.
        fits_K = torch.minimum(
            0.98 / (height_K * aspect_K), (canvas.spare_N.clamp(min=0) / inked_K).sqrt()
        )
        fits_K = fits_K.clamp(max=1)
        box_K4 = _box(draw, height_K * fits_K, height_K * aspect_K * fits_K, size)
        # Strips are as wide as the widest: their blank ends stretch beyond the box.
        stretch_K = strips.shape[3] / widths.index_select(0, which_K)
        box_K4 = torch.cat([box_K4[:, :3], (box_K4[:, 3] * stretch_K)[:, None]], dim=1)
        ink_K1SS = place(strips.index_select(0, which_K), box_K4, size)
        written_K4SS = torch.cat([ink_K1SS * _colours(draw)[:, :, None, None], ink_K1SS], dim=1)
        x_KCSS = over(canvas.x_NCSS, written_K4SS, draw.uniform(*self.settings.text_opacity))
        return canvas._replace(x_NCSS=x_KCSS, spare_N=canvas.spare_N - inked_K * fits_K**2)

    def quarter_turn(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Turn by exactly 90, 180 or 270 degrees."""
        return canvas._replace(x_NCSS=quarter_turns(canvas.x_NCSS, 1 + draw.choice(3)))

    def blur(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Gaussian blur, up to a good deal stronger than SimCLR's."""
        size = self.settings.size
        low, high = self.settings.blur_sigma
        radius = min(math.ceil(2.5 * high * size), size - 1)
        taps = blur_taps(draw.uniform(low, high) * size, size, radius)
        return canvas._replace(x_NCSS=separable(canvas.x_NCSS, taps, taps))

    def shrink(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Make the picture smaller and large again, smoothly or with visible pixels."""
        size = self.settings.size
        count_K = (draw.uniform(*self.settings.shrink_side) * size).round().clamp(min=2)
        x_KCSS = shrink_and_enlarge(canvas.x_NCSS, count_K, draw.chance(0.5))
        return canvas._replace(x_NCSS=x_KCSS)

    def noise(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Add Gaussian noise."""
        deviation_K111 = draw.uniform(*self.settings.noise_deviation)[:, None, None, None]
        x_KCSS = (canvas.x_NCSS + self.normal_KCSS * deviation_K111).clamp(0, 1)
        return canvas._replace(x_NCSS=x_KCSS)

    def jpeg(self, canvas: Canvas, draw: Draw) -> Canvas:
        """Save as a JPEG file, often a poor one."""
        quality_K = draw.uniform(*self.settings.jpeg_quality)
        return canvas._replace(x_NCSS=jpeg(canvas.x_NCSS, quality_K))


def banner(x_NCSS: Tensor, side_N: Tensor, share_N: Tensor, colour_NC: Tensor) -> Tensor:
    """Cover a share of each picture with a band of colour along one side.

    Args:
        side_N: 0 above, 1 below, 2 on the left, 3 on the right.
    """
    size = x_NCSS.shape[3]
    place_S = (torch.arange(size, device=x_NCSS.device) + 0.5) / size
    from_side_NS = torch.where(side_N[:, None] % 2 == 1, 1 - place_S, place_S)
    band_NS = from_side_NS < share_N[:, None]
    across_N11 = (side_N < 2)[:, None, None]
    band_NSS = torch.where(across_N11, band_NS[:, :, None], band_NS[:, None, :])
    return torch.where(band_NSS[:, None], colour_NC[:, :, None, None], x_NCSS)


def stripes(size: int, one_NC: Tensor, other_NC: Tensor, unit_N3: Tensor) -> Tensor:
    """Stripes of two colours, whose angle, width and shift are drawn from three uniforms."""
    place_S = (torch.arange(size, device=one_NC.device) + 0.5) / size
    angle, width, shift = unit_N3[:, :, None, None].unbind(1)
    along = place_S * (math.pi * angle).cos() + place_S[:, None] * (math.pi * angle).sin()
    is_one_NSS = ((along * (2 + 10 * width) + shift) % 1) < 0.5
    return torch.where(is_one_NSS[:, None], one_NC[:, :, None, None], other_NC[:, :, None, None])


def _colours(draw: Draw) -> Tensor:
    """Colours (N, 3); black and white are common."""
    any_N3 = draw.unit(3)
    kind_N1 = draw.unit(1)
    return torch.where(kind_N1 < 0.3, 0.0, torch.where(kind_N1 > 0.7, 1.0, any_N3))


def _box(draw: Draw, height_N: Tensor, width_N: Tensor, size: int) -> Tensor:
    """A box of the given shares of the sides, anywhere on the canvas: (N, 4) in pixels."""
    top_N, left_N = draw.uniform(0, 1) * (1 - height_N), draw.uniform(0, 1) * (1 - width_N)
    return torch.stack([top_N, left_N, height_N, width_N], dim=1) * size


@torch.no_grad()
def mix(
    views_NCSS: Tensor, generator: torch.Generator, probability: float
) -> tuple[Tensor, Tensor]:
    """Mix some views with another view of the batch: SSCD section 4.3.

    Half of them by mixup (Zhang et al. 2018), which shines 30 to 70 % of the other through; half
    by CutMix (Yun et al. 2019), which puts a box of 30 to 60 % of the area in its place.

    Args:
        views_NCSS: float32 in 0 to 1, of different images.
        probability: of each view.

    Returns:
        The views, float32 (N, C, S, S), and the number of each one's partner, int64 (N,): its own
        where it is not mixed. Two mixed views never have the same partner.
    """
    n, size, device = len(views_NCSS), views_NCSS.shape[3], views_NCSS.device
    draw = Draw(torch.rand(n, 8, generator=generator, device=device))
    order_N = draw.unit(1)[:, 0].argsort()
    numbers_N = torch.arange(n, device=device)
    partner_N = numbers_N.index_copy(0, order_N, order_N.roll(-1))
    partner_N = torch.where(draw.chance(probability), partner_N, numbers_N)

    share_N = draw.uniform(0.3, 0.7)
    area_N = draw.uniform(0.3, 0.6)
    height_N = area_N ** draw.uniform(0.25, 0.75)
    box_N4 = _box(draw, height_N, area_N / height_N, 1)
    place_S = (torch.arange(size, device=device) + 0.5) / size
    down_NS, right_NS = (
        (place_S >= start_N[:, None]) & (place_S < (start_N + length_N)[:, None])
        for start_N, length_N in zip(box_N4.unbind(1)[:2], box_N4.unbind(1)[2:], strict=True)
    )
    cut_NSS = (down_NS[:, :, None] & right_NS[:, None, :]).float()
    is_cut_N11 = draw.chance(0.5)[:, None, None]
    share_NSS = torch.where(is_cut_N11, cut_NSS, share_N[:, None, None])
    partners_NCSS = views_NCSS.index_select(0, partner_N)
    return torch.lerp(views_NCSS, partners_NCSS, share_NSS[:, None]), partner_N
