"""Whether a picture is an edited copy of another, or of a part of it, shown by their geometry.

Three steps:

1. Local features (SIFT, Lowe 2004; RootSIFT, Arandjelovic and Zisserman 2012) are matched. Each
   match has a place, a size and an angle in both pictures, so it alone proposes a transform
   (Philbin et al. 2007, section 4.1). The proposals that most matches follow are refined to a
   homography; one that no edit would make is refused. Frame on frame is a proposal of its own,
   where features say nearly that or nothing. There is no chance in it: the same two pictures
   always give the same answer.
2. The pixels that lie on each other are compared, block by block: in a band of frequencies that
   recolouring, blur and compression leave alone, and in the finest one, which tells how exactly
   they lie there. Blocks without texture say nothing.
3. The verdict weighs what was found (``index.alignment``), and chooses between the proposals.

Points are complex numbers, x + iy, in pixels of the reduced grey picture, from its upper left
corner; so a pixel's centre is at a half. N points, of which M pairs match.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.alignment import LEAST_CONTAINMENT, Alignment, NoAlignment, is_copy
from index.homography import (
    Matrix,
    Points,
    apply,
    corners,
    enlargement,
    fit_affine,
    fit_homography,
    fit_similarity,
    fit_upright,
    is_plausible,
    rotation,
    tilt,
)
from index.overlay import agreement, shares_of_overlap, sides_that_stand_out
from index.registration import Registration, registration

LONGEST: Final = 384
"""Features are looked for at this many pixels on the longer side, at most."""

# Features
_MOST_FEATURES: Final = 500
_LEAST_CONTRAST: Final = 0.015  # OpenCV's 0.04 leaves too few on blurred and recompressed copies
_DESCRIPTOR_UNIT: Final = 512  # RootSIFT rarely exceeds a half, so a byte holds it
# A mirrored patch has the same histograms: rows of cells upside down, angles turned about.
_MIRRORED: Final = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()

# Matches
_LARGEST_RATIO: Final = 0.85  # of the distance to the nearest and to the next nearest elsewhere
_ELSEWHERE: Final = 3.0  # pixels: SIFT sets several features, of several angles, on one point
_MOST_MATCHES: Final = 300

# Transforms; distances are shares of the candidate's diagonal
_ROUGHLY: Final = 0.04
_TOLERANCES: Final = (0.03, 0.025, 0.02, 0.016, 0.012, 0.012)
_PROPOSALS: Final = 8
_LEAST_INLIERS: Final = 4
_INLIERS_OF_A_HOMOGRAPHY: Final = 12  # with fewer, an affine transform
# How much further off features may be before a tilt is believed: to few of them, a homography's
# eight numbers can always bend a little.
_SIMPLER_FACTOR: Final = 1.2
_SIMPLER_FACTOR_SHARED: Final = 6.0  # by all inliers
_SIMPLER_MARGIN: Final = 0.1e-3

# What is looked at more closely
_LEAST_SIDES: Final = 3  # that stand out: a screen may be cut off
_NEARLY: Final = 0.03  # a share of the diagonal: so far from frame on frame a fit may be
_WORTH_A_CLOSER_LOOK: Final = 0.3  # agreement


@dataclass(frozen=True, eq=False)
class Features:
    """What is compared of one picture.

    Attributes:
        width: of the picture as given, in pixels; with ``height`` the unit of transforms.
        height: likewise.
        grey: uint8 (h, w), reduced to at most ``LONGEST`` on the longer side.
        points: complex (N,), x + iy in pixels of ``grey``.
        frames: complex (N,), each feature's size in those pixels, turned by its angle.
        descriptors: uint8 (N, 128), RootSIFT in units of 1/512.
    """

    width: int
    height: int
    grey: NDArray[np.uint8]
    points: Points
    frames: Points
    descriptors: NDArray[np.uint8]

    def mirrored(self) -> Features:
        """Those of the picture with left and right exchanged, without looking for them again."""
        return Features(
            self.width,
            self.height,
            np.ascontiguousarray(self.grey[:, ::-1]),
            self.grey.shape[1] - self.points.conj(),
            -self.frames.conj(),
            self.descriptors[:, _MIRRORED],
        )


def features(pixels: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> Features:
    """What ``align`` needs of a picture; uint8 (H, W, 3), RGB, of any size.

    ``size`` is the width and height of the picture as given, where the pixels were reduced.

    Raises:
        ValueError: the pixels have another type or shape, or there are none.
    """
    import cv2  # a tenth of a second, only for those who verify

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3)")
    height, width = pixels.shape[:2]
    size = size or (width, height)
    scale = LONGEST / max(height, width)
    if scale < 1:
        reduced = (max(1, round(scale * width)), max(1, round(scale * height)))
        pixels = np.asarray(cv2.resize(pixels, reduced, interpolation=cv2.INTER_AREA), np.uint8)
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    sift = cv2.SIFT.create(
        _MOST_FEATURES,
        contrastThreshold=_LEAST_CONTRAST,
        enable_precise_upscale=True,  # else points are off by a fraction of a pixel
    )
    found, rows = sift.detectAndCompute(grey, None)
    # More than were asked for may come back, where several are equally strong.
    order = sorted(range(len(found)), key=lambda number: -found[number].response)[:_MOST_FEATURES]
    chosen = [found[number] for number in order]
    angles = np.radians([each.angle for each in chosen])
    sift_N128 = rows[order] if order else np.zeros((0, 128), np.float32)
    root_N128 = np.sqrt(sift_N128 / np.maximum(1, sift_N128.sum(axis=1, keepdims=True)))
    return Features(
        *size,
        grey,
        np.array([complex(*each.pt) + 0.5 + 0.5j for each in chosen], np.complex128),
        np.array([each.size for each in chosen], np.complex128) * np.exp(1j * angles),
        np.minimum(np.rint(_DESCRIPTOR_UNIT * root_N128), 255).astype(np.uint8),
    )


def align(query: Features, candidate: Features) -> Alignment | NoAlignment:
    """Lay the query, or its mirror image, on the candidate, and compare what lies on each other.

    As the features say, and frame on frame, where they say nearly that or nothing: the reading by
    which it is a copy, if one is, else that by which more agrees.
    """
    best: _Fit | None = None
    for flipped in (False, True):
        seen = query.mirrored() if flipped else query
        for fit in _fits(seen, candidate, flipped):
            if best is None or fit.inliers > best.inliers:
                best = fit
    seen = query.mirrored() if best is not None and best.flipped else query
    fits = [fit for fit in (best, _frame_on_frame(seen, candidate, best)) if fit is not None]
    readings = [_compare(seen, candidate, fit) for fit in fits]
    surest = max(
        readings, key=lambda each: (is_copy(each), is_copy(each, likely=True), each.agreement)
    )
    if best is None and not is_copy(surest, likely=True):
        return NoAlignment("no plausible transform is followed by enough local features")
    return surest


@dataclass(frozen=True, eq=False)
class _Fit:
    """A transform, 3 x 3 from the (mirrored) query's grey picture to the candidate's.

    ``p`` and ``q`` are the pairs that follow it, (M,).
    """

    matrix: Matrix
    p: Points
    q: Points
    upright: bool
    rigid: bool
    flipped: bool
    framed: bool = False

    @cached_property
    def inliers(self) -> int:
        return _places(self.p, self.q)

    @property
    def residual(self) -> float:
        """Pixels, the median; 0 where there are no pairs."""
        return float(np.median(np.abs(apply(self.matrix, self.p) - self.q))) if len(self.p) else 0.0


def _matches(query: Features, candidate: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the query and of the candidate, both (M,), the most distinctive pairs first."""
    none = np.zeros(0, np.int64)
    if min(len(query.points), len(candidate.points)) < _LEAST_INLIERS:
        return none, none
    import cv2

    unit = np.float32(_DESCRIPTOR_UNIT)
    a, b = query.descriptors / unit, candidate.descriptors / unit
    # Not a @ b.T: where several pictures are compared at once, threads of a BLAS spin for others'.
    similarity = np.asarray(cv2.gemm(a, b, 1, np.empty(0), 0, flags=cv2.GEMM_2_T))
    nearest = similarity.argmax(axis=1)
    rows = np.arange(len(nearest))
    first = similarity[rows, nearest]
    # The next nearest elsewhere, of the four nearest: those on the same point do not count.
    second, latest = np.full(len(rows), -1, np.float32), nearest
    for _ in range(3):
        similarity[rows, latest] = -1
        latest = similarity.argmax(axis=1)
        apart = np.abs(candidate.points[latest] - candidate.points[nearest]) > _ELSEWHERE
        second = np.where(apart, np.maximum(second, similarity[rows, latest]), second)
    ratio = np.sqrt(np.maximum(0, 1 - first) / np.maximum(1e-6, 1 - second))
    order = np.argsort(ratio, kind="stable")[:_MOST_MATCHES]
    order = order[ratio[order] < _LARGEST_RATIO]
    return order, nearest[order]


def _fits(query: Features, candidate: Features, flipped: bool) -> Iterator[_Fit]:
    """Plausible transforms, each refined from one match and all that roughly follow it."""
    of_query, of_candidate = _matches(query, candidate)
    p, q = query.points[of_query], candidate.points[of_candidate]
    diagonal = float(np.hypot(*candidate.grey.shape))
    turn = candidate.frames[of_candidate] / query.frames[of_query]
    # Row m: how far every match is off if the transform is the m-th's own.
    off_MM = np.abs(turn[:, None] * (p[None, :] - p[:, None]) + (q[:, None] - q[None, :]))
    follows_MM = off_MM < _ROUGHLY * diagonal
    followers = follows_MM.sum(axis=1)
    tried = np.zeros(len(p), bool)
    proposals = 0
    for proposal in np.argsort(-followers, kind="stable"):
        if followers[proposal] < _LEAST_INLIERS or proposals == _PROPOSALS:
            return
        if tried[proposal]:
            continue
        proposals += 1
        tried |= follows_MM[proposal]
        fit = _refine(p, q, follows_MM[proposal], query.grey.shape, diagonal, flipped)
        if fit is not None and is_plausible(fit.matrix, query.grey.shape):
            yield fit
            if fit.inliers > len(p) / 2:
                return


def _refine(
    p: Points,
    q: Points,
    inliers: NDArray[np.bool_],
    shape: tuple[int, ...],
    diagonal: float,
    flipped: bool,
) -> _Fit | None:
    """Fit to the inliers, (M,), take all matches nearby for inliers, and again, ever closer.

    None where too few are left. The simplest transform that explains them wins.
    """
    matrix = np.eye(3)
    for tolerance in _TOLERANCES:
        if _places(p[inliers], q[inliers]) < _LEAST_INLIERS:
            return None
        matrix = _fit(p[inliers], q[inliers], shape)
        inliers = np.abs(apply(matrix, p) - q) < tolerance * diagonal
    p, q = p[inliers], q[inliers]
    fit = _Fit(matrix, p, q, False, False, flipped)
    if fit.inliers < _LEAST_INLIERS:
        return None
    factor = _SIMPLER_FACTOR + _SIMPLER_FACTOR_SHARED / fit.inliers
    allowed = factor * fit.residual + _SIMPLER_MARGIN * diagonal
    quarters = _quarters(matrix, shape)
    for simpler in (
        _Fit(fit_upright(p, q, quarters), p, q, True, True, flipped),
        _Fit(fit_similarity(p, q), p, q, False, True, flipped),
    ):
        if simpler.residual <= allowed and is_plausible(simpler.matrix, shape):
            return simpler
    return fit


def _quarters(matrix: Matrix, shape: tuple[int, ...]) -> int:
    """By how many quarters it turns, clockwise, to the nearest."""
    return round(rotation(matrix, shape) / 90) % 4


def _frame_on_frame(query: Features, candidate: Features, best: _Fit | None) -> _Fit | None:
    """The transform that puts the one frame on the other, unless the best fit is another."""
    shape = query.grey.shape
    quarters = 0 if best is None else _quarters(best.matrix, shape)
    turn = np.linalg.matrix_power(np.array([(0.0, -1, 1), (1, 0, 0), (0, 0, 1)]), quarters)
    to, by = (np.diag([float(w), h, 1]) for h, w in (candidate.grey.shape, shape))
    matrix = to @ turn @ np.linalg.inv(by)
    if best is None:
        none = np.zeros(0, np.complex128)
        return _Fit(matrix, none, none, True, True, False, framed=True)
    at = corners(shape)
    off = np.abs(apply(best.matrix, at) - apply(matrix, at)).max()
    if off > _NEARLY * np.hypot(*candidate.grey.shape):
        return None
    return _Fit(matrix, best.p, best.q, True, True, best.flipped, framed=True)


def _places(p: Points, q: Points) -> int:
    """How many pairs there are, those counted once that share a pixel in either picture."""
    return min(len(np.unique(np.rint(points))) for points in (p, q))


def _fit(p: Points, q: Points, shape: tuple[int, ...]) -> Matrix:
    """The homography from p to q; affine where there are few, or where the homography is wild."""
    if _places(p, q) >= _INLIERS_OF_A_HOMOGRAPHY:
        matrix = fit_homography(p, q)
        if is_plausible(matrix, shape):
            return matrix
    return fit_affine(p, q)


def _compare(query: Features, candidate: Features, fit: _Fit) -> Alignment:
    """Compare the pixels; the query is mirrored already where the fit says so."""
    overlap, query_overlap = shares_of_overlap(query.grey.shape, candidate.grey.shape, fit.matrix)
    reduced = candidate.width / candidate.grey.shape[1] * query.grey.shape[1] / query.width
    shares = np.diag([1 / candidate.grey.shape[1], 1 / candidate.grey.shape[0], 1])
    pixels = np.diag([float(query.grey.shape[1]), float(query.grey.shape[0]), 1])
    mirror = np.array([(-1.0, 0, 1), (0, 1, 0), (0, 0, 1)]) if fit.flipped else np.eye(3)
    transform = shares @ fit.matrix @ pixels @ mirror
    enlarged = enlargement(fit.matrix, query.grey.shape)
    agrees = agreement(query.grey, candidate.grey, fit.matrix)
    closer = agrees >= _WORTH_A_CLOSER_LOOK
    return Alignment(
        transform=tuple((transform / transform[2, 2]).ravel().tolist()),
        inliers=fit.inliers,
        residual=fit.residual,
        enlarged=max(1.0, enlarged),
        overlap=overlap,
        query_overlap=query_overlap,
        agreement=agrees,
        upright=fit.upright,
        rigid=fit.rigid,
        framed=fit.framed,
        registration=_registration(query, candidate, fit) if closer and fit.rigid else None,
        mounted=closer and _mounted(query, candidate, fit.matrix, overlap, query_overlap),
        tilt=tilt(fit.matrix, query.grey.shape),
        flipped=fit.flipped,
        rotation=rotation(fit.matrix, query.grey.shape),
        scale=reduced * enlarged,
    )


def _registration(query: Features, candidate: Features, fit: _Fit) -> Registration:
    def adjusted(p: Points, q: Points) -> Matrix:
        return fit_upright(p, q, 0) if fit.upright else fit_similarity(p, q)

    adjust = None if fit.framed else adjusted
    return registration(query.grey, candidate.grey, fit.matrix, adjust)


def _mounted(
    query: Features, candidate: Features, matrix: Matrix, overlap: float, query_overlap: float
) -> bool:
    """Whether one of the two stands out in the other, where it lies within it."""
    pairs = (
        (
            overlap,
            query.grey,
            apply(np.asarray(np.linalg.inv(matrix)), corners(candidate.grey.shape)),
        ),
        (query_overlap, candidate.grey, apply(matrix, corners(query.grey.shape))),
    )
    return any(
        within >= LEAST_CONTAINMENT and sides_that_stand_out(grey, outline) >= _LEAST_SIDES
        for within, grey, outline in pairs
    )
