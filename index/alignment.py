"""How one picture lies on another, and whether that makes it a copy.

Two photographs of one shelf have hundreds of inliers. But an edit shows the whole of one of the two
pictures, while a camera that moved cuts off both, and what stands at different distances does not
lie on each other afterwards. An edit leaves what it leaves of the details exactly where it was, or
shows where the picture ends. The bounds are measured by tests/benchmarks/geometry.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeGuard

from index.registration import Registration

LEAST_INLIERS: Final = 6
"""Fewer prove nothing by themselves; exact details may, or frames, where copies are likely."""

LEAST_CONTAINMENT: Final = 0.98
"""An edit shows the whole of one of the two pictures; less the error of the transform."""

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

LEAST_AGREEMENT_IF_UPRIGHT: Final = 0.83
"""Where it is not exact; it may be noisy or covered in part."""

LEAST_AGREEMENT_IF_TURNED: Final = 0.93
"""Likewise, where it is turned but not by quarters, or tilted: so is it if a camera moved."""

LEAST_AGREEMENT_OF_TWO_PARTS: Final = 0.95
"""Where neither lies within the other, both may be parts of a third, if upright and exact."""

LEAST_DETAIL: Final = 0.35
"""It is exact where so much of the finest texture is the same and in its place, whatever became of
the rest: more than half of it may be covered, or bent."""

LEAST_EXTENT: Final = 0.2
"""And spread over so much of the picture: a label that many pictures bear is not the picture."""

LARGEST_DRIFT: Final = 0.1
"""In its place is what is no further off, in pixels of the coarser of the two pictures."""

LARGEST_DRIFT_OF_WHOLES: Final = 0.05
"""Likewise where it is nearly frame on frame: photographs from one place come close to that."""

LARGEST_DRIFT_OF_FRAMES: Final = 0.25
"""Likewise where frame lies on frame, since nothing was adjusted to the pixels."""

LEAST_DRIFT_OF_CAMERAS: Final = 0.7
"""Details that are off by more, frame on frame, were photographed twice."""

LEAST_AGREEMENT_OF_FRAMES: Final = 0.85
"""Where frame lies on frame, hashes or descriptors are alike, and details are worn off."""


@dataclass(frozen=True)
class Alignment:
    """How the query lies on the candidate, and how well.

    Attributes:
        transform: 3 x 3, row by row: a homography from the query to the candidate, both in shares
            of width and height from the upper left corner.
        inliers: how many features agree on it, each place counted once.
        residual: how far these are off, the median, in pixels of the candidate, reduced; 0 where
            there are none.
        enlarged: how many of these a pixel of the query, reduced, is wide; at least 1.
        overlap: share of the candidate's area that the query covers.
        query_overlap: share of the query's area that lies on the candidate.
        agreement: 0 to 1, the share of the overlap's texture that is the same in both.
        upright: the transform needs no more than a crop, resizing, a flip and quarter turns.
        rigid: it needs no more than that, or a rotation by any angle and one scale.
        framed: it puts frame on frame: resizing, a flip and quarter turns.
        registration: how exactly it lies, where it is rigid and the agreement worth a closer look.
        mounted: one picture stands out from the plain surroundings that it has in the other.
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
    framed: bool
    registration: Registration | None
    mounted: bool
    tilt: float
    flipped: bool
    rotation: float
    scale: float

    @property
    def containment(self) -> float:
        """1 where one of the two pictures lies within the other, as after any edit of it."""
        return max(self.overlap, self.query_overlap)

    @property
    def is_whole(self) -> bool:
        """Whether neither picture is a part of the other."""
        return min(self.overlap, self.query_overlap) >= LEAST_CONTAINMENT


@dataclass(frozen=True)
class NoAlignment:
    """The pictures do not lie on each other in any way that an edit would make; says why."""

    reason: str


def is_blind(outcome: Alignment | NoAlignment) -> bool:
    """Whether features say nothing, for or against."""
    return isinstance(outcome, NoAlignment) or outcome.inliers < LEAST_INLIERS


def is_copy(outcome: Alignment | NoAlignment, *, likely: bool = False) -> TypeGuard[Alignment]:
    """Whether one of the two pictures is an edited copy of (a part of) the other.

    One picture must lie within the other. Then it is enough that what is left of the details lies
    exactly where it should. Else nearly all texture must be the same; and unless the one stands out
    from plain surroundings in the other, look-alikes are many: a slight tilt is what a camera makes
    that has moved, and refused; and where one picture is a part of the other, features must be as
    close as resampling puts them, since a photograph of the same shelf from nearer by lies within
    the first. Two parts of a third picture are recognised where they are exact.

    ``likely`` says that hashes or descriptors call them copies, too: then it is enough that frame
    on frame what is coarse agrees, whatever became of the details; pages of one form may do so.
    """
    if isinstance(outcome, NoAlignment):
        return False
    contained, exact = outcome.containment >= LEAST_CONTAINMENT, _is_exact(outcome)
    if outcome.framed and not exact:
        worn = not _is_off(outcome, LEAST_DRIFT_OF_CAMERAS)
        return likely and worn and outcome.agreement >= LEAST_AGREEMENT_OF_FRAMES
    if contained and exact:
        return True
    if is_blind(outcome):
        return False
    if not contained:
        return exact and outcome.upright and outcome.agreement >= LEAST_AGREEMENT_OF_TWO_PARTS
    if not outcome.mounted:
        if not outcome.rigid and outcome.tilt < LEAST_TILT:
            return False
        if not outcome.is_whole and not _is_part(outcome):
            return False
    least = LEAST_AGREEMENT_IF_UPRIGHT if outcome.upright else LEAST_AGREEMENT_IF_TURNED
    return outcome.agreement >= least


def _is_exact(found: Alignment) -> bool:
    details, largest = found.registration, LARGEST_DRIFT
    if found.is_whole:
        largest = LARGEST_DRIFT_OF_FRAMES if found.framed else LARGEST_DRIFT_OF_WHOLES
    return (
        details is not None
        and details.detail >= LEAST_DETAIL
        and details.extent >= LEAST_EXTENT
        and details.drift <= largest
    )


def _is_off(found: Alignment, least: float) -> bool:
    """Whether there are details enough to say that they are off by more."""
    details = found.registration
    return details is not None and details.detail >= LEAST_DETAIL and details.drift > least


def _is_part(found: Alignment) -> bool:
    if found.rigid:
        largest, least = LARGEST_RESIDUAL_OF_PARTS, LEAST_AGREEMENT_OF_PARTS
    else:
        largest, least = LARGEST_RESIDUAL_IF_TILTED, LEAST_AGREEMENT_OF_TILTED_PARTS
    if _is_off(found, LARGEST_DRIFT):
        return False
    return found.residual <= largest * found.enlarged and found.agreement >= least
