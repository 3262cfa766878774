"""Resizing, placing, blurring and turning pictures, another way for each sample of a batch.

All but turning are linear and separable, and each pixel that they make is a sum of few: of these,
its taps, there are the places and the weights. So they are exact, antialiasing included, for any
box, and fast on CPU and GPU alike.

Shape suffixes: N samples, C channels, H W height and width of what is given, S T of what is made,
K taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MOST_REDUCTION = 8.0
"""Pictures that are placed yet smaller are antialiased as if they were so much smaller."""


class Taps(NamedTuple):
    """What each pixel of a row, or of a column, is the sum of.

    Attributes:
        places_NSK: pixels of the row that is given, int64.
        weights_NSK: float32.
    """

    places_NSK: Tensor
    weights_NSK: Tensor


class Span(NamedTuple):
    """Part of a row or column: where it starts and how long it is, in pixels, each (N,)."""

    start_N: Tensor
    length_N: Tensor


def separable(x_NCHW: Tensor, down: Taps, across: Taps) -> Tensor:
    """Sum up the rows that ``down`` tells and the columns that ``across`` tells: (N, C, S, T)."""
    n, channels, height, width = x_NCHW.shape
    # Channels innermost: for images as they are stored, that is no copy.
    rows = x_NCHW.permute(0, 2, 3, 1).reshape(n * height, width * channels)
    x = _sums(rows, height, down).view(n, -1, width, channels)
    columns = x.permute(0, 2, 3, 1).reshape(n * width, -1)
    x = _sums(columns, width, across).view(n, -1, channels, down.places_NSK.shape[1])
    return x.permute(0, 2, 3, 1).contiguous()


def _sums(table: Tensor, height: int, taps: Taps) -> Tensor:
    """Weighted sums (N S, width) of rows of a table (N H, width), from each sample's H rows."""
    first_N11 = torch.arange(0, len(table), height, device=table.device)[:, None, None]
    places = (taps.places_NSK + first_N11).flatten(0, 1)
    weights = taps.weights_NSK.flatten(0, 1)
    # As embedding_bag, made for sums of words' vectors, is fast.
    return functional.embedding_bag(places, table, mode="sum", per_sample_weights=weights)


def crop_resize_flip(images_NCHW: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: int) -> Tensor:
    """Cut each box out, resize it with antialiasing, and mirror it where flips_N is true.

    Equal to torchvision's ``resized_crop`` with bilinear interpolation and antialiasing.

    Args:
        images_NCHW: uint8, or float32 in 0 to 1.
        boxes_N4: top, left, height, width in pixels of the images.

    Returns:
        float32 (N, C, S, S) in 0 to 1.
    """
    top, left, height, width = boxes_N4.unbind(1)
    whole = Span(torch.zeros_like(top), torch.full_like(top, size))
    full_height, full_width = images_NCHW.shape[2:]
    down = resize_taps(Span(top, height), full_height, whole, size, full_height / size)
    across = resize_taps(Span(left, width), full_width, whole, size, full_width / size)
    across = Taps(*(torch.where(flips_N[:, None, None], each.flip(1), each) for each in across))
    if images_NCHW.dtype == torch.uint8:
        down = down._replace(weights_NSK=down.weights_NSK / 255)
    return separable(images_NCHW.float(), down, across)


def at_side(x_NCSS: Tensor, size: int) -> Tensor:
    """Square pictures, all of them whole, at this side, with antialiasing where they shrink."""
    if x_NCSS.shape[-1] == size:
        return x_NCSS
    return functional.interpolate(x_NCSS, (size, size), mode="bilinear", antialias=True)


def place(x_NCHW: Tensor, boxes_N4: Tensor, size: int) -> Tensor:
    """Resize each picture with antialiasing into its box of an S x S canvas, 0 outside.

    Args:
        boxes_N4: top, left, height, width in pixels of the canvas, fractions allowed.
    """
    top, left, height, width = boxes_N4.unbind(1)
    zero = torch.zeros_like(top)
    full_height, full_width = x_NCHW.shape[2:]
    whole_height, whole_width = Span(zero, zero + full_height), Span(zero, zero + full_width)
    down = resize_taps(whole_height, full_height, Span(top, height), size, MOST_REDUCTION)
    across = resize_taps(whole_width, full_width, Span(left, width), size, MOST_REDUCTION)
    return separable(x_NCHW, down, across)


def shrink_and_enlarge(x_NCSS: Tensor, count_N: Tensor, large_pixels_N: Tensor) -> Tensor:
    """Resize each square picture to ``count`` pixels a side and back.

    Args:
        large_pixels_N: where true, it is enlarged without interpolation.
    """
    size = x_NCSS.shape[3]
    part = Span(torch.zeros_like(count_N), count_N)
    whole = Span(part.start_N, torch.full_like(count_N, size))
    smaller = resize_taps(whole, size, part, size, MOST_REDUCTION)
    smooth = resize_taps(part, size, whole, size, 1)
    # Without interpolation, the first of the two taps is the pixel itself.
    made_S = torch.arange(size, device=count_N.device) + 0.5
    itself_NS1 = (made_S * (count_N / size)[:, None]).long()[:, :, None]
    only_first_K = (torch.arange(2, device=count_N.device) == 0).float()
    large_N11 = large_pixels_N[:, None, None]
    enlarged = Taps(
        torch.where(large_N11, itself_NS1, smooth.places_NSK),
        torch.where(large_N11, only_first_K, smooth.weights_NSK),
    )
    return separable(separable(x_NCSS, smaller, smaller), enlarged, enlarged)


def resize_taps(source: Span, full: int, target: Span, size: int, reduction: float) -> Taps:
    """Taps of a triangle filter that is as wide as the reduction needs.

    Args:
        source: what is resized.
        full: pixels that are given.
        target: what it fills; pixels outside get weights of 0.
        size: pixels that are made.
        reduction: how many times shorter than the source the target may be; were it shorter, the
            filter would be too narrow.
    """
    (start, length), (to, to_length) = (
        (each.start_N[:, None, None], each.length_N[:, None, None]) for each in (source, target)
    )
    scale = length / to_length.clamp(min=1e-3)  # an empty span is filled with nothing
    radius = scale.clamp(min=1, max=max(1, reduction))
    made = torch.arange(size, device=start.device)[None, :, None] + 0.5 - to
    centre = made * scale
    # The filter reaches over as many pixels, and one more lies on the edge, with weight 0.
    taps_K = torch.arange(math.ceil(2 * max(1, reduction)), device=start.device)
    place = (start + centre - radius + 0.5).floor() + taps_K
    given = place + 0.5 - start
    weight = (1 - (given - centre).abs() / radius).clamp(min=0)
    weight = weight * ((given > 0) & (given < length))
    weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-6)
    weight = weight * ((made > 0) & (made < to_length))
    return Taps(place.clamp(0, full - 1).long(), weight)


def blur_taps(sigma_N: Tensor, size: int, radius: int) -> Taps:
    """Taps of a Gaussian cut off at a radius, edges reflected.

    Args:
        sigma_N: standard deviation in pixels; with 0 nothing is blurred.
        radius: in pixels, below ``size``.
    """
    offsets_K = torch.arange(-radius, radius + 1, device=sigma_N.device)
    kernels_NK = torch.exp(-0.5 * (offsets_K / sigma_N.clamp(min=1e-3)[:, None]) ** 2)
    kernels_NK = kernels_NK / kernels_NK.sum(dim=1, keepdim=True)
    # Where tap k of output s falls, with reflection about the outermost pixels.
    places_SK = torch.arange(size, device=sigma_N.device)[:, None] + offsets_K
    places_SK = (size - 1) - ((size - 1) - places_SK.abs()).abs()
    shape = (len(sigma_N), size, len(offsets_K))
    return Taps(places_SK.expand(shape), kernels_NK[:, None].expand(shape))


def over(canvas_N3SS: Tensor, picture_N4SS: Tensor, opacity_N: Tensor) -> Tensor:
    """Lay pictures with alpha, by which their colours are multiplied already, over canvases."""
    picture_N4SS = picture_N4SS * opacity_N[:, None, None, None]
    return canvas_N3SS * (1 - picture_N4SS[:, 3:]) + picture_N4SS[:, :3]


def opaque(x_N3HW: Tensor) -> Tensor:
    """The pictures with alpha 1, (N, 4, H, W)."""
    return torch.cat([x_N3HW, torch.ones_like(x_N3HW[:, :1])], dim=1)


def rotate(
    x_NCSS: Tensor, angle_N: Tensor, zoom_N: Tensor, fill_NC: Tensor, reflected_N: Tensor
) -> Tensor:
    """Turn each square picture about its centre.

    Args:
        angle_N: in radians, counter-clockwise.
        zoom_N: how much smaller the picture gets; 1 keeps its size and cuts its corners.
        fill_NC: colour of what was outside the picture.
        reflected_N: where true, the picture is reflected there instead.
    """
    cosine, sine, zero = angle_N.cos() * zoom_N, angle_N.sin() * zoom_N, torch.zeros_like(angle_N)
    theta_N23 = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid_NSS2 = functional.affine_grid(theta_N23, list(x_NCSS.shape), align_corners=False)
    turned = functional.grid_sample(
        x_NCSS, grid_NSS2, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    inside_NSS = (grid_NSS2.abs() <= 1).all(dim=3) | reflected_N[:, None, None]
    return torch.where(inside_NSS[:, None], turned, fill_NC[:, :, None, None])


def quarter_turns(x_NCSS: Tensor, turns_N: Tensor) -> Tensor:
    """Turn each square picture by 90 degrees, 0 to 3 times, counter-clockwise as torch.rot90."""
    turned = x_NCSS
    for turns in (1, 2, 3):
        chosen = (turns_N == turns)[:, None, None, None]
        turned = torch.where(chosen, x_NCSS.rot90(turns, (2, 3)), turned)
    return turned
