"""What makes a copy of how one picture lies on another: each bound decides by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from index import alignment
from index.alignment import Alignment, NoAlignment, is_blind, is_copy
from index.registration import Registration

WORN: Final = Registration(detail=0.0, extent=0.0, drift=9.0)
"""No details are left to say anything."""

RESIZED: Final = Alignment(
    transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), inliers=100,
    residual=0.1, enlarged=2.0, overlap=1.0, query_overlap=1.0, agreement=0.99,
    upright=True, rigid=True, framed=True,
    registration=Registration(detail=0.9, extent=0.9, drift=0.01), mounted=False, tilt=1.0,
    flipped=False, rotation=0.0, scale=1.0,
)  # fmt: skip
"""Frame on frame and exact; all else is this with something changed."""

HALFTONE: Final = replace(RESIZED, registration=WORN)
TURNED: Final = replace(RESIZED, framed=False, upright=False)
NOISY: Final = replace(RESIZED, framed=False, registration=WORN)
CROP: Final = replace(RESIZED, framed=False, overlap=0.3, registration=WORN)
EXACT_CROP: Final = replace(CROP, registration=RESIZED.registration)
SKEWED_CROP: Final = replace(CROP, rigid=False, upright=False, tilt=1.3)
TWO_CROPS: Final = replace(EXACT_CROP, query_overlap=0.5)


def changed(found: Alignment, attribute: str, value: Any) -> Alignment:
    """With another value of its own, or of its registration."""
    if attribute in ("detail", "extent", "drift"):
        assert found.registration is not None
        return replace(found, registration=replace(found.registration, **{attribute: value}))
    return replace(found, **{attribute: value})


@pytest.mark.parametrize(
    ("found", "attribute", "bound", "beyond"),
    [
        (HALFTONE, "agreement", alignment.LEAST_AGREEMENT_OF_FRAMES, -0.01),
        (replace(EXACT_CROP, agreement=0.2), "detail", alignment.LEAST_DETAIL, -0.01),
        (replace(EXACT_CROP, agreement=0.2), "extent", alignment.LEAST_EXTENT, -0.01),
        (replace(EXACT_CROP, agreement=0.2), "drift", alignment.LARGEST_DRIFT, 0.01),
        (replace(TURNED, agreement=0.2), "drift", alignment.LARGEST_DRIFT_OF_WHOLES, 0.01),
        (replace(RESIZED, agreement=0.2), "drift", alignment.LARGEST_DRIFT_OF_FRAMES, 0.01),
        (RESIZED, "drift", alignment.LEAST_DRIFT_OF_CAMERAS, 0.01),
        (NOISY, "inliers", alignment.LEAST_INLIERS, -1),
        (NOISY, "agreement", alignment.LEAST_AGREEMENT_IF_UPRIGHT, -0.01),
        (replace(NOISY, upright=False), "agreement", alignment.LEAST_AGREEMENT_IF_TURNED, -0.01),
        (replace(NOISY, rigid=False), "tilt", alignment.LEAST_TILT, -0.01),
        (CROP, "query_overlap", alignment.LEAST_CONTAINMENT, -0.01),
        (CROP, "agreement", alignment.LEAST_AGREEMENT_OF_PARTS, -0.01),
        (CROP, "residual", 2 * alignment.LARGEST_RESIDUAL_OF_PARTS, 0.01),
        (SKEWED_CROP, "agreement", alignment.LEAST_AGREEMENT_OF_TILTED_PARTS, -0.01),
        (SKEWED_CROP, "residual", 2 * alignment.LARGEST_RESIDUAL_IF_TILTED, 0.01),
        (TWO_CROPS, "agreement", alignment.LEAST_AGREEMENT_OF_TWO_PARTS, -0.01),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_bound_parts_copies_from_others(
    found: Alignment, attribute: str, bound: float, beyond: float
) -> None:
    assert is_copy(changed(found, attribute, bound), likely=True)
    assert not is_copy(changed(found, attribute, bound + beyond), likely=True)


def test_what_is_worn_off_needs_hash_or_descriptor_where_frame_lies_on_frame() -> None:
    assert not is_copy(HALFTONE)
    assert is_copy(NOISY)


def test_two_parts_of_a_third_picture_are_upright_and_exact() -> None:
    assert is_copy(TWO_CROPS)
    assert not is_copy(replace(TWO_CROPS, upright=False))
    assert not is_copy(replace(TWO_CROPS, registration=WORN))


def test_details_that_are_off_refuse_a_part_that_agrees() -> None:
    off = Registration(alignment.LEAST_DETAIL, extent=0.0, drift=alignment.LARGEST_DRIFT + 0.01)
    assert not is_copy(replace(CROP, registration=off))
    assert is_copy(replace(CROP, registration=replace(off, detail=alignment.LEAST_DETAIL - 0.01)))


def test_what_stands_out_from_plain_surroundings_may_be_tilted_and_rough() -> None:
    rough = replace(SKEWED_CROP, tilt=1.05, residual=2.0, agreement=0.94)
    assert not is_copy(rough)
    assert is_copy(replace(rough, mounted=True))


def test_few_features_say_nothing_and_exact_details_need_none() -> None:
    few = changed(EXACT_CROP, "inliers", alignment.LEAST_INLIERS - 1)
    assert is_blind(few)
    assert is_copy(few)
    assert is_blind(NoAlignment("nothing"))
    assert not is_copy(NoAlignment("nothing"), likely=True)
