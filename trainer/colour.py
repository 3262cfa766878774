"""Colour operations with a strength per sample, equal to torchvision's at equal parameters.

Shape suffixes: N samples, C = 3, S side.
"""

from __future__ import annotations

import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds them
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter(x_NCSS: Tensor, factors_N4: Tensor, order_N4: Tensor, apply_N: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of each sample, in the sample's own order.

    Args:
        factors_N4: factors of the first three (1 changes nothing), and the hue's shift in turns.
        order_N4: permutation of 0 to 3 a sample; the operation in column 0 comes first.
        apply_N: where false the sample stays as it is.
    """
    # The hue costs the most: it is turned once, for all samples. Before and after it come as many
    # blends as there may be, with factor 1, which changes nothing, where there are fewer.
    place_N1 = (order_N4 == HUE).int().argmax(1, keepdim=True)
    before_N3 = torch.arange(3, device=x_NCSS.device) < place_N1
    x = x_NCSS
    for place in range(3):
        x = _blend_by_kind(x, factors_N4, order_N4[:, place], apply_N & before_N3[:, place])
    turned = adjust_hue(x, factors_N4[:, HUE])
    x = torch.where(apply_N[:, None, None, None], turned, x)
    for place in range(3):
        x = _blend_by_kind(x, factors_N4, order_N4[:, place + 1], apply_N & ~before_N3[:, place])
    return x


def _blend_by_kind(x_NCSS: Tensor, factors_N4: Tensor, kind_N: Tensor, apply_N: Tensor) -> Tensor:
    """Brightness, contrast or saturation, by the sample's kind.

    Each is a blend: with black, with the mean luma, or with the luma.
    """
    factor_N = torch.where(apply_N, factors_N4.gather(1, kind_N[:, None])[:, 0], 1.0)
    factor, rest = factor_N[:, None, None, None], (1 - factor_N)[:, None, None, None]
    kind = kind_N[:, None, None, None]
    luma = _luma(x_NCSS)
    mean = luma.mean(dim=(2, 3), keepdim=True)
    other = luma * (rest * (kind == SATURATION)) + mean * (rest * (kind == CONTRAST))
    return torch.addcmul(other, x_NCSS, factor).clamp_(0, 1)


def grey(x_NCSS: Tensor) -> Tensor:
    """Luma in all three channels."""
    return _luma(x_NCSS).expand_as(x_NCSS)


def _luma(x_NCSS: Tensor) -> Tensor:
    red, green, blue = x_NCSS.unbind(1)
    r, g, b = GREY_WEIGHTS
    return (r * red).add_(green, alpha=g).add_(blue, alpha=b)[:, None]


def adjust_hue(x_NCSS: Tensor, shift_N: Tensor) -> Tensor:
    """Turn the hue of HSV by ``shift_N`` turns, value and saturation kept."""
    red, green, blue = x_NCSS.unbind(1)
    value, least = x_NCSS.amax(dim=1), x_NCSS.amin(dim=1)
    chroma = value - least
    is_red, is_green = value == red, value == green
    rise = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    start = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    hue = start + rise / chroma.clamp(min=1e-12)  # grey has no rise
    hue = hue.add_(6 * shift_N[:, None, None])  # in sixths of a turn
    hue = hue - 6 * (hue / 6).floor_()
    # Each channel is a trapezium over the hue, from the least to the value.
    shares = torch.stack(
        [
            (hue - 3).abs_().sub_(1),
            2 - (hue - 2).abs_(),
            2 - (hue - 4).abs_(),
        ],
        dim=1,
    ).clamp_(0, 1)
    return torch.addcmul(least[:, None], chroma[:, None], shares).clamp_(0, 1)
