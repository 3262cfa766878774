"""What a JPEG file of a given quality leaves of a picture, in batches on the device.

The lossy steps of the baseline format (ITU-T T.81) as libjpeg carries them out, Pillow's default:
YCbCr, chroma at half the width and height, 8 x 8 cosine transform, quantisation with the standard
tables scaled by quality, and the way back with smooth chroma upsampling. The lossless rest, which
makes a file of it, is left out.

Shape suffixes: N samples, H W height and width, U V the same in blocks of 8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def _table(steps: str) -> Tensor:
    return torch.tensor([float(step) for step in steps.split()])


# Annex K of T.81: a step a frequency, vertical ones rising from row to row.
LUMA_STEPS_64 = _table("""
    16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56   14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99
""")
CHROMA_STEPS_64 = _table("""
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
""")


def _cosine_transform() -> Tensor:
    """The two-dimensional orthonormal transform of a block as one matrix, (64, 64)."""
    place, frequency = torch.arange(8.0), torch.arange(8.0)[:, None]
    one_88 = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    one_88[0] /= math.sqrt(2)
    return torch.kron(one_88, one_88)


TRANSFORM = _cosine_transform()


def jpeg(x_N3HW: Tensor, quality_N: Tensor) -> Tensor:
    """The picture after a JPEG round trip.

    Args:
        x_N3HW: float32 in 0 to 1, any height and width.
        quality_N: 1 to 100, as libjpeg understands it.

    Returns:
        Like x; whole multiples of 1/255.
    """
    height, width = x_N3HW.shape[2:]
    red, green, blue = (x_N3HW * 255).round().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blueness = (blue - luma) / 1.772 + 128
    redness = (red - luma) / 1.402 + 128

    # Chroma is never finer than a block of 2 x 2 pixels, so it is quantised in one go for both.
    chroma_N2HW = _halve(torch.stack([blueness, redness], dim=1).round())
    luma_N1HW = _requantise(luma.round()[:, None], LUMA_STEPS_64, quality_N)
    chroma_N2HW = _double(_requantise(chroma_N2HW, CHROMA_STEPS_64, quality_N))

    luma = luma_N1HW[:, 0]
    blueness, redness = (chroma_N2HW[:, :, :height, :width] - 128).unbind(1)
    channels = [
        luma + 1.402 * redness,
        luma - (0.114 * 1.772 / 0.587) * blueness - (0.299 * 1.402 / 0.587) * redness,
        luma + 1.772 * blueness,
    ]
    return torch.stack(channels, dim=1).round().clamp_(0, 255).div_(255)


def _requantise(x_NCHW: Tensor, steps_64: Tensor, quality_N: Tensor) -> Tensor:
    """Cosine transform, rounding to multiples of the scaled steps, and the way back."""
    n, channels, height, width = x_NCHW.shape
    x = functional.pad(x_NCHW, (0, -width % 8, 0, -height % 8), mode="replicate") - 128
    u, v = x.shape[2] // 8, x.shape[3] // 8
    blocks = x.view(n, channels, u, 8, v, 8).transpose(3, 4).reshape(n, -1, 64)
    transform = TRANSFORM.to(x.device, non_blocking=True)
    steps_N164 = _scaled(steps_64, quality_N)[:, None]
    # Eighths are as fine as libjpeg's integers are; halves of a step go away from zero, as there.
    coefficients = (blocks @ transform.T * 8).round() / 8
    counts = (coefficients.abs() / steps_N164 + 0.5).floor() * coefficients.sign()
    blocks = (counts * steps_N164 @ transform + 128).round().clamp_(0, 255)
    x = blocks.view(n, channels, u, v, 8, 8).transpose(3, 4).reshape(n, channels, 8 * u, 8 * v)
    return x[:, :, :height, :width]


def _scaled(steps_64: Tensor, quality_N: Tensor) -> Tensor:
    """Steps at each quality, (N, 64); libjpeg's jpeg_quality_scaling."""
    quality = quality_N.round().clamp(1, 100)[:, None]
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps_64 = steps_64.to(quality_N.device, non_blocking=True)
    return ((steps_64 * percent + 50) / 100).floor().clamp(1, 255)


def _halve(x_NCHW: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels, halves rounded down and up in turn as libjpeg does."""
    x = functional.pad(x_NCHW, (0, x_NCHW.shape[3] % 2, 0, x_NCHW.shape[2] % 2), mode="replicate")
    total = functional.avg_pool2d(x, 2, divisor_override=1)
    bias = torch.arange(total.shape[3], device=x.device) % 2 + 1
    return ((total + bias) / 4).floor_()


def _double(x_NCHW: Tensor) -> Tensor:
    """Twice the size by weights 3/4 and 1/4, with libjpeg's rounding ("fancy upsampling")."""
    width = 2 * x_NCHW.shape[3]
    x = functional.interpolate(x_NCHW, scale_factor=2, mode="bilinear", align_corners=False)
    bias = 8 - torch.arange(width, device=x.device) % 2
    return ((x * 16).round_().add_(bias) / 16).floor_()
