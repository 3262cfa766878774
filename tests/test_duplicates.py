"""Groups of copies: direct matches only, the same whatever the order of arrival."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import stars
from index.artifact import Calibration
from index.duplicates import describe_group
from index.encoder import Encoding
from index.records import Chunk, Facts, Item
from index.stars import Star, find_stars, first_of_kind
from index.verdicts import Verdicts

CALIBRATION = Calibration(pairs=1000, false_match_rates=(0.1, 0.001), thresholds=(0.5, 0.8))


@dataclass(frozen=True)
class Image:
    """An image by its direction in a plane, in degrees."""

    id: str
    degrees: float
    pixels: int = 100
    size_bytes: int = 10
    sha256: str = ""
    offset: float = 0.0
    pixel_sha256: str = ""
    hash: bytes = b""
    mtime_ns: int = 0
    format: str = "JPEG"

    @property
    def bytes_id(self) -> str:
        return self.sha256 or self.id

    def facts(self, key: int) -> Facts:
        return Facts(
            key,
            self.id,
            self.bytes_id,
            self.pixel_sha256,
            self.pixels,
            self.size_bytes,
            self.mtime_ns,
            self.format,
            sharpness=0.0,
            details=0,
            offset=float(np.float32(self.offset)),
        )


def chunk(images: Sequence[Image], first_key: int = 1) -> Chunk:
    angles = np.radians([image.degrees for image in images])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    offsets = np.array([image.offset for image in images], np.float32)
    return Chunk(
        keys=np.arange(first_key, first_key + len(images)),
        images=[image.facts(first_key + place) for place, image in enumerate(images)],
        hashes=[image.hash for image in images],
        encoding=Encoding(vectors, vectors, offsets),
    )


def groups(
    images: Sequence[Image], threshold: float, verdicts: Verdicts | None = None
) -> list[list[str]]:
    """The ids of each group, the one to keep first."""
    found = find_stars([chunk(images)] if images else [], threshold, verdicts)
    return [[images[key - 1].id for key in star.keys] for star in found]


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def test_a_chain_of_look_alikes_does_not_merge() -> None:
    """Each is 10 degrees from the next; only direct neighbours of a centre are with it."""
    chain = [Image(f"{n}", 10 * n, pixels=1000 - n) for n in range(6)]
    assert groups(chain, cosine(11)) == [["0", "1"], ["2", "3"], ["4", "5"]]
    best_in_the_middle = [Image(f"{n}", 10 * n, pixels=2000 if n == 2 else 1000) for n in range(5)]
    assert groups(best_in_the_middle, cosine(11)) == [["2", "1", "3"]]


def test_equal_bytes_are_together_whatever_the_threshold() -> None:
    images = [
        Image("b", 0, sha256="same"),
        Image("a", 0, sha256="same"),
        Image("c", 1),
        Image("d", 90, sha256="other"),
        Image("e", 90, sha256="other"),
    ]
    assert groups(images, 5.0) == [["a", "b"], ["d", "e"]]
    assert groups(images, cosine(2)) == [["a", "b", "c"], ["d", "e"]]


def test_equal_pixels_and_near_hashes_are_together_whatever_the_threshold() -> None:
    near, far = bytes(32), bytes([255] * 5) + bytes(27)
    images = [
        Image("a", 0, pixel_sha256="p"),
        Image("b", 90, pixel_sha256="p", sha256="same"),
        Image("c", 180, sha256="same"),
        Image("d", 30, hash=near, pixels=90),
        Image("e", 60, hash=bytes([15]) + bytes(31)),
        Image("f", 120, hash=far),
        Image("g", 150),
    ]
    assert groups(images, 5.0) == [["a", "b", "c"], ["e", "d"]]


def test_verdicts_bring_together_and_keep_apart() -> None:
    """What is different may each be with the one to keep, but not with each other."""
    images = [Image("a", 0, pixels=300), Image("b", 1), Image("c", 2), Image("d", 90)]
    assert groups(images, cosine(5)) == [["a", "b", "c"]]
    different = Verdicts.of([("b", "c", "different")])
    assert groups(images, cosine(5), different) == [["a", "b"]]
    assert groups(images, cosine(5), Verdicts.of([("a", "b", "different")])) == [["a", "c"]]
    assert groups(images, cosine(5), Verdicts.of([("a", "d", "same")])) == [["a", "b", "c", "d"]]
    gone = Verdicts.of([("a", "z", "different"), ("y", "z", "same")])
    assert groups(images, cosine(5), gone) == [["a", "b", "c"]]


def test_a_busy_image_needs_a_higher_cosine() -> None:
    """The larger offset of the pair counts, whichever side it is on."""
    for offsets in ((0.0, 0.3), (0.3, 0.0)):
        pair = [Image("a", 0, offset=offsets[0]), Image("b", 5, offset=offsets[1])]
        assert groups(pair, cosine(5) - 0.3 - 1e-3) == [["a", "b"]]
        assert groups(pair, cosine(5) - 0.3 + 1e-3) == []


def test_nothing_is_no_group() -> None:
    assert groups([], 0.5) == []
    assert groups([Image("a", 0)], -1.0) == []


images_strategy = st.lists(
    st.builds(
        Image,
        id=st.text("abcdefgh", min_size=1, max_size=3),
        degrees=st.integers(0, 24).map(lambda number: 15.0 * number),
        pixels=st.integers(1, 3),
        size_bytes=st.integers(1, 3),
    ),
    unique_by=lambda image: image.id,
    min_size=1,
    max_size=12,
)


@given(
    images_strategy, st.randoms(use_true_random=False), st.sampled_from([(1, 1), (2, 3), (256, 99)])
)
@settings(max_examples=40, deadline=None)
def test_groups_are_the_same_in_any_order_of_arrival(
    images: list[Image], random: object, tile: tuple[int, int]
) -> None:
    """And in any size of block, and however the images come in chunks."""
    shuffled = list(images)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = groups(images, cosine(20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stars, "_TILE", tile)
        half = len(shuffled) // 2
        chunks = [chunk(shuffled[:half]), chunk(shuffled[half:], half + 1)]
        found = find_stars([part for part in chunks if part.images], cosine(20))
    assert [[shuffled[key - 1].id for key in star.keys] for star in found] == expected


@given(images_strategy)
@settings(max_examples=40, deadline=None)
def test_members_match_the_centre_and_centres_no_other_centre_before_them(
    images: list[Image],
) -> None:
    by_id = {image.id: image for image in images}
    threshold = cosine(20)
    found = groups(images, threshold)
    assert len(set(itertools.chain(*found))) == sum(map(len, found))
    for centre, *members in found:
        for member in members:
            assert cosine(by_id[centre].degrees - by_id[member].degrees) >= threshold - 1e-6
    grouped = set(itertools.chain(*found))
    singles = [image.id for image in images if image.id not in grouped]
    for one, other in itertools.combinations([group[0] for group in found] + singles, 2):
        assert cosine(by_id[one].degrees - by_id[other].degrees) < threshold


def test_first_of_kind_keeps_the_nearest_of_each_kind() -> None:
    rows = chunk([Image("a", 0), Image("b", 50), Image("c", 3), Image("d", 52), Image("e", 99)])
    assert first_of_kind(rows.encoding, cosine(5)) == [0, 1, 4]
    assert first_of_kind(rows.encoding[:0], 0.5) == []


def item(image: Image, width: int, height: int) -> Item:
    return Item(
        id=image.id,
        state="present",
        root="file:/",
        source=f"file:/{image.id}",
        sha256=image.bytes_id,
        pixel_sha256=image.bytes_id,
        perceptual_hash=b"",
        size_bytes=image.size_bytes,
        mtime_ns=image.mtime_ns,
        width=width,
        height=height,
        format=image.format,
        sharpness=0.0,
        details=0,
        metadata={},
        reason="",
        updated_at="2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("pixels", "sizes", "reason"),
    [
        ((200, 100), (5, 9), "most pixels (20 × 10)"),
        ((200, 200), (9, 5), "largest file (9 bytes) of those with the most pixels"),
        ((200, 200), (9, 9), "first by id of those with the most pixels and the largest file"),
    ],
)
def test_the_one_to_keep_comes_with_the_reason(
    pixels: tuple[int, int], sizes: tuple[int, int], reason: str
) -> None:
    images = [Image(name, 0, pixels[n], sizes[n]) for n, name in enumerate("ab")]
    (star,) = find_stars([chunk(images)], 0.9)
    items = {n: item(image, image.pixels // 10, 10) for n, image in enumerate(images, 1)}
    group = describe_group(star, items, CALIBRATION)
    assert (group.id, group.keep.id, group.keep.reason) == ("a", "a", reason)
    assert [image.id for image in group.images] == ["a", "b"]


def test_pixels_that_are_not_known_are_not_equal() -> None:
    """As of images that an earlier release stored."""
    images = [Image("a", 0, pixels=300), Image("b", 10)]
    (star,) = find_stars([chunk(images)], 0.5)
    items = {n: item(image, 10, 10) for n, image in enumerate(images, 1)}
    items = {n: replace(each, pixel_sha256="") for n, each in items.items()}
    (match,) = describe_group(star, items, CALIBRATION).matches
    assert match.tier == "descriptor"


def test_each_match_of_a_group_says_its_tier_and_how_sure_it_is() -> None:
    images = [
        Image("b", 0, pixels=300, sha256="same", offset=0.1),
        Image("c", 0, pixels=300, sha256="same", offset=0.1),
        Image("a", 30, offset=0.2),
    ]
    (star,) = find_stars([chunk(images)], 0.5)
    assert isinstance(star, Star)
    group = describe_group(
        star, {n: item(image, 10, 10) for n, image in enumerate(images, 1)}, CALIBRATION
    )
    assert (group.id, group.keep.id) == ("a", "b")
    exact, near = group.matches
    assert (exact.id, exact.tier, exact.false_match_rate) == ("c", "exact", 0.0)
    assert exact.evidence == {"sha256": "same"}
    assert exact.score == pytest.approx(0.9)
    assert (near.id, near.tier, near.false_match_rate) == ("a", "descriptor", 0.1)
    assert near.score == pytest.approx(cosine(30) - 0.2, abs=1e-6)
    assert near.evidence == pytest.approx({"cosine": cosine(30), "offset": 0.2}, abs=1e-6)
