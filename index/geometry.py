"""Whether a picture is an edited copy of another, or of a part of it, shown by their geometry.

Three looks, each at what the one before let through:

1. Local features (SIFT, Lowe 2004; RootSIFT, Arandjelovic and Zisserman 2012) are matched. Each
   match has a place, a size and an angle in both pictures, so it alone proposes a transform
   (Philbin et al. 2007, section 4.1). The proposals that most matches follow are refined to a
   homography; one that no edit would make is refused. There is no chance in it: the same two
   pictures always give the same answer.
2. The pixels that lie on each other are compared, block by block, in a band of frequencies that
   recolouring, blur and compression leave alone. Blocks without texture say nothing.
3. ``is_copy`` weighs what was found. Two photographs of one shelf have hundreds of inliers. But an
   edit shows the whole of one of the two pictures, while a camera that moved cuts off both, and
   what stands at different distances does not lie on each other afterwards.

Points are complex numbers, x + iy, in pixels of the reduced grey picture, from its upper left
corner; so a pixel's centre is at a half. N points, of which M pairs match.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from index.homography import (
    Matrix,
    Points,
    apply,
    fit_affine,
    fit_homography,
    fit_similarity,
    fit_upright,
    is_plausible,
    jacobian,
    rotation,
    tilt,
)
from index.overlay import agreement, shares_of_overlap

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

# The verdict, measured by tests/benchmarks/geometry.py

LEAST_INLIERS: Final = 6
"""Fewer are no evidence, whatever the pixels."""

LEAST_CONTAINMENT: Final = 0.98
"""An edit shows the whole of one of the two pictures; less the error of the transform."""

LEAST_OF_BOTH: Final = 0.97
"""Where more than this of both lies on each other, neither is a part of the other."""

LEAST_TILT: Final = 1.2
"""Between two photographs of the same things a camera tilts less, where they fit at all."""

LARGEST_RESIDUAL_OF_PARTS: Final = 0.2
"""Pixels of the coarser of the two pictures, where neither was tilted."""

LEAST_AGREEMENT_OF_PARTS: Final = 0.9
"""Likewise."""

LARGEST_RESIDUAL_IF_TILTED: Final = 0.35
"""Pixels of the coarser of the two pictures."""

LEAST_AGREEMENT_OF_TILTED_PARTS: Final = 0.97
"""Of a part that is tilted."""

EXACT_RESIDUAL: Final = 0.12
"""Features further off than this, and the same thing may have been photographed twice."""

DOUBTFUL_RESIDUAL: Final = 0.4
"""Features further off than this are no evidence for or against it."""

LEAST_AGREEMENT_IF_UPRIGHT: Final = (0.45, 0.83)
"""Up to ``EXACT_RESIDUAL``, where half of it may be covered, and from ``DOUBTFUL_RESIDUAL`` on."""

LEAST_AGREEMENT_IF_TURNED: Final = (0.65, 0.93)
"""Likewise, where it is turned but not by quarters, or tilted: so is it if a camera moved."""

LEAST_AGREEMENT_OF_TWO_PARTS: Final = 0.95
"""Where neither picture lies within the other, both may be parts of a third, if upright."""


@dataclass(frozen=True, eq=False)
class Features:
    """What is compared of one picture.

    Attributes:
        width: of the pixels that it was made from; with ``height`` the unit of transforms.
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


@dataclass(frozen=True)
class Alignment:
    """How the query lies on the candidate, and how well.

    Attributes:
        transform: 3 x 3, row by row: a homography from the query to the candidate, both in shares
            of width and height from the upper left corner.
        inliers: how many features agree on it, each place counted once.
        residual: how far these are off, the median, in pixels of the candidate, reduced.
        enlarged: how many of these a pixel of the query, reduced, is wide; at least 1.
        overlap: share of the candidate's area that the query covers.
        query_overlap: share of the query's area that lies on the candidate.
        agreement: 0 to 1, the share of the overlap's texture that is the same in both.
        upright: the transform needs no more than a crop, resizing, a flip and quarter turns.
        rigid: it needs no more than that, or a rotation by any angle and one scale.
        tilt: the larger of its stretch in the middle and its foreshortening; 1 where there is none.
        flipped: the query was mirrored, left for right, before anything else.
        rotation: degrees by which it was then turned clockwise, over -180 to 180.
        scale: pixels of the candidate for each pixel of the query, of the pictures as given.
    """

    transform: tuple[float, ...]
    inliers: int
    residual: float
    enlarged: float
    overlap: float
    query_overlap: float
    agreement: float
    upright: bool
    rigid: bool
    tilt: float
    flipped: bool
    rotation: float
    scale: float

    @property
    def containment(self) -> float:
        """1 where one of the two pictures lies within the other, as after any edit of it."""
        return max(self.overlap, self.query_overlap)


@dataclass(frozen=True)
class NoAlignment:
    """The pictures do not lie on each other in any way that an edit would make; says why."""

    reason: str


def features(pixels: NDArray[np.uint8]) -> Features:
    """What ``align`` needs of a picture; uint8 (H, W, 3), RGB, of any size.

    Raises:
        ValueError: the pixels have another type or shape, or there are none.
    """
    import cv2  # a tenth of a second, only for those who verify

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3)")
    height, width = pixels.shape[:2]
    scale = LONGEST / max(height, width)
    if scale < 1:
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
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
        width,
        height,
        grey,
        np.array([complex(*each.pt) + 0.5 + 0.5j for each in chosen], np.complex128),
        np.array([each.size for each in chosen], np.complex128) * np.exp(1j * angles),
        np.minimum(np.rint(_DESCRIPTOR_UNIT * root_N128), 255).astype(np.uint8),
    )


def align(query: Features, candidate: Features) -> Alignment | NoAlignment:
    """Lay the query, or its mirror image, on the candidate, and compare what lies on each other."""
    best: _Fit | None = None
    for flipped in (False, True):
        seen = query.mirrored() if flipped else query
        for fit in _fits(seen, candidate, flipped):
            if best is None or fit.inliers > best.inliers:
                best = fit
    if best is None:
        return NoAlignment("no plausible transform is followed by enough local features")
    return _compare(query.mirrored() if best.flipped else query, candidate, best)


def is_blind(outcome: Alignment | NoAlignment) -> bool:
    """Whether too little was found to say anything, for or against."""
    return isinstance(outcome, NoAlignment) or outcome.inliers < LEAST_INLIERS


def is_copy(outcome: Alignment | NoAlignment) -> TypeGuard[Alignment]:
    """Whether one of the two pictures is an edited copy of (a part of) the other.

    One picture must lie within the other, and nearly all texture be the same. The closer the
    features are to where resampling alone would put them, the more of the picture may be covered
    by something else. A slight tilt is what a camera makes that has moved, and refused. Where one
    picture is a part of the other, look-alikes are many: a photograph of the same shelf from nearer
    by lies within the first. Two parts of a third picture are recognised if neither was tilted.
    """
    if isinstance(outcome, NoAlignment) or is_blind(outcome):
        return False
    if not outcome.rigid and outcome.tilt < LEAST_TILT:
        return False
    if min(outcome.overlap, outcome.query_overlap) < LEAST_OF_BOTH and not _is_part(outcome):
        return False
    if outcome.containment < LEAST_CONTAINMENT:
        return outcome.upright and outcome.agreement >= LEAST_AGREEMENT_OF_TWO_PARTS
    least = np.interp(
        outcome.residual,
        (EXACT_RESIDUAL, DOUBTFUL_RESIDUAL),
        LEAST_AGREEMENT_IF_UPRIGHT if outcome.upright else LEAST_AGREEMENT_IF_TURNED,
    )
    return outcome.agreement >= float(least)


def _is_part(found: Alignment) -> bool:
    if found.rigid:
        largest, least = LARGEST_RESIDUAL_OF_PARTS, LEAST_AGREEMENT_OF_PARTS
    else:
        largest, least = LARGEST_RESIDUAL_IF_TILTED, LEAST_AGREEMENT_OF_TILTED_PARTS
    return found.residual <= largest * found.enlarged and found.agreement >= least


@dataclass(frozen=True, eq=False)
class _Fit:
    """A transform, 3 x 3 from the (mirrored) query's grey picture to the candidate's."""

    matrix: Matrix
    inliers: int
    residual: float  # a share of the candidate's diagonal
    upright: bool
    rigid: bool
    flipped: bool


def _matches(query: Features, candidate: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the query and of the candidate, both (M,), the most distinctive pairs first."""
    none = np.zeros(0, np.int64)
    if min(len(query.points), len(candidate.points)) < _LEAST_INLIERS:
        return none, none
    unit = np.float32(_DESCRIPTOR_UNIT)
    a, b = query.descriptors / unit, candidate.descriptors / unit
    similarity = a @ b.T
    nearest = similarity.argmax(axis=1)
    rows = np.arange(len(nearest))
    first = similarity[rows, nearest]
    # The next nearest elsewhere: of the four nearest, those on the same point do not count.
    four = np.argpartition(-similarity, 3, axis=1)[:, :4]
    apart = np.abs(candidate.points[four] - candidate.points[nearest][:, None]) > _ELSEWHERE
    second = np.where(apart, similarity[rows[:, None], four], -1).max(axis=1)
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
        if fit.inliers >= _LEAST_INLIERS and is_plausible(fit.matrix, query.grey.shape):
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
) -> _Fit:
    """Fit to the inliers, (M,), take all matches nearby for inliers, and again, ever closer.

    Without ``inliers`` where too few are left. The simplest transform that explains them wins.
    """
    nothing = _Fit(np.eye(3), 0, 0.0, False, False, flipped)
    matrix, off = np.eye(3), np.zeros(len(p))
    for tolerance in _TOLERANCES:
        if _places(p[inliers], q[inliers]) < _LEAST_INLIERS:
            return nothing
        matrix = _fit(p[inliers], q[inliers], shape)
        off = np.abs(apply(matrix, p) - q) / diagonal
        inliers = off < tolerance
    places = _places(p[inliers], q[inliers])
    if places < _LEAST_INLIERS:
        return nothing
    residual = float(np.median(off[inliers]))
    allowed = (_SIMPLER_FACTOR + _SIMPLER_FACTOR_SHARED / places) * residual + _SIMPLER_MARGIN
    quarters = round(rotation(matrix, shape) / 90)
    for simpler, is_upright in (
        (fit_upright(p[inliers], q[inliers], quarters), True),
        (fit_similarity(p[inliers], q[inliers]), False),
    ):
        of_simpler = float(np.median(np.abs(apply(simpler, p) - q)[inliers])) / diagonal
        if of_simpler <= allowed and is_plausible(simpler, shape):
            return _Fit(simpler, places, of_simpler, is_upright, True, flipped)
    return _Fit(matrix, places, residual, False, False, flipped)


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
    enlarged = float(np.sqrt(np.linalg.det(jacobian(fit.matrix, query.grey.shape))))
    return Alignment(
        transform=tuple((transform / transform[2, 2]).ravel().tolist()),
        inliers=fit.inliers,
        residual=fit.residual * float(np.hypot(*candidate.grey.shape)),
        enlarged=max(1.0, enlarged),
        overlap=overlap,
        query_overlap=query_overlap,
        agreement=agreement(query.grey, candidate.grey, fit.matrix),
        upright=fit.upright,
        rigid=fit.rigid,
        tilt=tilt(fit.matrix, query.grey.shape),
        flipped=fit.flipped,
        rotation=rotation(fit.matrix, query.grey.shape),
        scale=reduced * enlarged,
    )
