"""Resizing, placing, blurring and turning pictures, another way for each sample of a batch.

All but turning are linear and separable, so each is a pair of small matrices per sample, applied as
batched products: exact antialiasing for any box, and fast on CPU and GPU alike.

Shape suffixes: N samples, C channels, H W height and width of what is given, S T of what is made,
K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def separable(x_NCHW: Tensor, rows_NSH: Tensor, columns_NTW: Tensor) -> Tensor:
    """Apply a matrix to the rows and one to the columns of each sample: (N, C, S, T)."""
    n, channels, height, width = x_NCHW.shape
    # Rows come first, with the channels innermost: for images as they are stored that is no copy,
    # and no matrix is repeated for each channel.
    x = rows_NSH @ x_NCHW.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    x = x.view(n, -1, width, channels).permute(0, 3, 1, 2).reshape(n, -1, width)
    return (x @ columns_NTW.transpose(1, 2)).view(n, channels, rows_NSH.shape[1], -1)


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
    whole = torch.zeros_like(top), torch.full_like(top, size)
    rows_NSH = resize_matrix((top, height), images_NCHW.shape[2], whole, size)
    columns_NSW = resize_matrix((left, width), images_NCHW.shape[3], whole, size)
    columns_NSW = torch.where(flips_N[:, None, None], columns_NSW.flip(1), columns_NSW)
    if images_NCHW.dtype == torch.uint8:
        rows_NSH = rows_NSH / 255
    return separable(images_NCHW.float(), rows_NSH, columns_NSW)


def place(x_NCHW: Tensor, boxes_N4: Tensor, size: int) -> Tensor:
    """Resize each picture with antialiasing into its box of an S x S canvas, 0 outside.

    Args:
        boxes_N4: top, left, height, width in pixels of the canvas, fractions allowed.
    """
    top, left, height, width = boxes_N4.unbind(1)
    zero, one = torch.zeros_like(top), torch.ones_like(top)
    rows_NSH = resize_matrix((zero, one * x_NCHW.shape[2]), x_NCHW.shape[2], (top, height), size)
    columns_NSW = resize_matrix((zero, one * x_NCHW.shape[3]), x_NCHW.shape[3], (left, width), size)
    return separable(x_NCHW, rows_NSH, columns_NSW)


def resize_matrix(
    source: tuple[Tensor, Tensor], full: int, target: tuple[Tensor, Tensor], size: int
) -> Tensor:
    """Weights (N, size, full) of a triangle filter that is as wide as the reduction needs.

    Args:
        source: where the span that is resized starts and how long it is, in pixels, each (N,).
        full: pixels that are given.
        target: the span that it fills, likewise; weights of pixels outside are 0.
        size: pixels that are made.
    """
    device = source[0].device
    (start, length), (to, to_length) = (
        (each[0][:, None, None], each[1][:, None, None]) for each in (source, target)
    )
    scale = length / to_length.clamp(min=1e-3)  # an empty span is filled with nothing
    made = torch.arange(size, device=device)[None, :, None] + 0.5 - to
    given = torch.arange(full, device=device)[None, None, :] + 0.5 - start
    weight = (1 - (given - made * scale).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((given > 0) & (given < length))
    weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-6)
    return weight * ((made > 0) & (made < to_length))


def nearest_matrix(count_N: Tensor, size: int) -> Tensor:
    """Weights (N, size, size) that spread the first ``count_N`` pixels over all: large pixels."""
    made = torch.arange(size, device=count_N.device)[None, :, None] + 0.5
    given = torch.arange(size, device=count_N.device)[None, None, :]
    return ((made * (count_N / size)[:, None, None]).floor() == given).float()


def blur_matrix(sigma_N: Tensor, size: int, radius: int) -> Tensor:
    """Weights (N, size, size) of a Gaussian cut off at a radius, edges reflected.

    Args:
        sigma_N: standard deviation in pixels.
        radius: in pixels, below ``size``.
    """
    offsets = torch.arange(-radius, radius + 1, device=sigma_N.device)
    kernels_NK = torch.exp(-0.5 * (offsets / sigma_N[:, None]) ** 2)
    kernels_NK = kernels_NK / kernels_NK.sum(dim=1, keepdim=True)
    # Where tap k of output s falls, with reflection about the outermost pixels.
    taps_SK = torch.arange(size, device=sigma_N.device)[:, None] + offsets
    taps_SK = (size - 1) - ((size - 1) - taps_SK.abs()).abs()
    placed_SKS = functional.one_hot(taps_SK, size).float()
    return torch.einsum("nk,skt->nst", kernels_NK, placed_SKS)


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
