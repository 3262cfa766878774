"""Each tier finds its kind of copy, the surest that does names it, and says how sure it is."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import put
from PIL import Image, ImageEnhance

from index.build import build
from index.catalog import Catalog
from index.collection import Collection, CopyQuery, Match, Page
from index.encoder import Encoder
from index.errors import ImageNotFound, InvalidVerdict
from index.fingerprint import perceptual_hash
from index.matching import PERCEPTUAL_RATE, TIERS, VERIFIED_RATE, find_matches
from index.orientations import ORIENTATIONS, oriented
from index.perceptual import PerceptualIndex
from index.second_look import Verifier, look_at

NEVER = 9.0  # a copy score that nothing has


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder, photographs: list[Path]) -> Iterator[Collection]:
    """Twelve photographs as PNG files."""
    with Catalog(tmp_path).create("matching", encoder) as collection:
        for path in photographs:
            with Image.open(path) as image:
                put(collection, encoder, path.stem, png(image.convert("RGB")))
        yield collection


def png(image: Image.Image, level: int = 6) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def query(encoder: Encoder, data: bytes, *, all_orientations: bool = False) -> CopyQuery:
    """Do what the service does with a file."""
    picture = encoder.load(data)
    pixels, small = picture.pixels[np.newaxis], picture.fingerprint.small[np.newaxis]
    if all_orientations:
        pixels, small = oriented(pixels[0]), oriented(small[0])
    return CopyQuery(
        encoder.encode(pixels),
        [perceptual_hash(each) for each in small],
        hashlib.sha256(data).hexdigest(),
        picture.fingerprint.pixel_sha256,
    )


def first(collection: Collection, asked: CopyQuery, threshold: float = NEVER) -> Match:
    return collection.copies(asked, threshold=threshold)[0]


@pytest.fixture
def photograph(photographs: list[Path]) -> Image.Image:
    with Image.open(photographs[0]) as image:
        return image.convert("RGB")


def test_equal_bytes_equal_pixels_and_near_hashes_are_told_apart(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    name = photographs[0].stem
    tiers = []
    for data in (
        png(photograph),
        png(photograph, level=1),
        png(photograph.resize((256, 128))),
    ):
        match = first(collection, query(encoder, data))
        assert match.id == name
        tiers.append((match.tier, match.false_match_rate))
    assert tiers == [("exact", 0.0), ("pixels", 0.0), ("perceptual", PERCEPTUAL_RATE)]


def test_perceptual_match_says_how_many_bits_differ(
    collection: Collection, encoder: Encoder, photograph: Image.Image
) -> None:
    match = first(collection, query(encoder, png(photograph.resize((256, 128)))))
    assert match.evidence["hash"] == "pdq"
    assert 0 <= match.evidence["distance"] <= 31


def test_a_picture_without_a_hash_does_not_keep_that_of_the_one_it_replaced(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    name, asked = photographs[0].stem, query(encoder, png(photograph.resize((256, 128))))
    assert first(collection, asked).id == name
    put(collection, encoder, name, png(Image.new("RGB", (64, 48), "white")))
    assert collection.copies(asked, threshold=NEVER) == []
    put(collection, encoder, name, png(photograph))
    assert first(collection, asked).id == name


def test_what_hashes_miss_is_found_over_the_threshold_by_descriptor(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    width, height = photograph.size
    dark = ImageEnhance.Brightness(photograph.crop((0, 0, width // 2, height // 2))).enhance(0.7)
    asked = query(encoder, png(dark))
    assert collection.copies(asked, threshold=NEVER) == []
    matches = collection.copies(asked, threshold=-2.0)
    assert len(matches) == len(photographs)
    assert {match.tier for match in matches} == {"descriptor"}
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    rates = [match.false_match_rate for match in matches]
    assert rates == sorted(rates)


@pytest.mark.parametrize("name", ["turned_90", "mirrored", "turned_180_mirrored"])
def test_turned_copies_are_found_by_their_orientation_only(
    name: str,
    collection: Collection,
    encoder: Encoder,
    photographs: list[Path],
    photograph: Image.Image,
) -> None:
    """The evidence names what is to be done to the query to make it the picture."""
    square = photograph.resize((192, 192))
    undone = {"turned_90": "turned_270"}.get(name, name)
    seen = dict(zip(ORIENTATIONS, oriented(np.asarray(square)), strict=True))[undone]
    data = png(Image.fromarray(seen))
    assert collection.copies(query(encoder, data), threshold=NEVER) == []
    match = first(collection, query(encoder, data, all_orientations=True))
    assert (match.id, match.tier) == (photographs[0].stem, "perceptual")
    assert match.evidence["orientation"] == name
    assert match.false_match_rate == pytest.approx(8 * PERCEPTUAL_RATE)


def test_an_image_is_named_once_by_its_surest_tier_and_they_come_in_order(
    collection: Collection, encoder: Encoder, photograph: Image.Image
) -> None:
    put(collection, encoder, "again", png(photograph))
    put(collection, encoder, "other file", png(photograph, level=1))
    put(collection, encoder, "smaller", png(photograph.resize((256, 128))))
    matches = collection.copies(query(encoder, png(photograph)), threshold=-2.0)
    tiers = [TIERS.index(match.tier) for match in matches]
    assert tiers == sorted(tiers)
    assert len({match.id for match in matches}) == len(matches) == 15
    assert [match.tier for match in matches[:4]] == ["exact", "exact", "pixels", "perceptual"]
    assert len(collection.copies(query(encoder, png(photograph)), threshold=-2.0, limit=3)) == 3


@pytest.mark.parametrize("mirrored", [False, True])
def test_second_look_finds_what_scores_miss_and_says_where_it_lies(
    mirrored: bool,
    collection: Collection,
    encoder: Encoder,
    photographs: list[Path],
    photograph: Image.Image,
) -> None:
    """A part of 60 % of both sides, from a quarter of the way on, in other colours."""
    width, height = photograph.size
    box = (width // 4, height // 4, width // 4 + 3 * width // 5, height // 4 + 3 * height // 5)
    part = ImageEnhance.Contrast(photograph.crop(box)).enhance(0.8)
    data = png(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part)
    plain = query(encoder, data)
    assert collection.copies(plain, threshold=NEVER) == []
    asked = replace(plain, features=look_at(data))
    (match,) = collection.copies(asked, threshold=NEVER)
    assert (match.id, match.tier) == (photographs[0].stem, "descriptor")
    assert match.false_match_rate <= VERIFIED_RATE
    assert match.evidence["verified"]
    assert match.evidence["flipped"] == mirrored
    assert match.evidence["overlap"] == pytest.approx(0.36, abs=0.01)
    assert match.evidence["rotation"] == pytest.approx(0, abs=1)
    assert match.evidence["scale"] == pytest.approx(1, abs=0.01)
    matrix = np.array(match.evidence["transform"]).reshape(3, 3)
    corner = matrix @ [1.0 if mirrored else 0.0, 0.0, 1.0]  # the part's, upper left
    assert corner[:2] / corner[2] == pytest.approx([0.25, 0.25], abs=0.01)


def test_second_look_refuses_what_only_scores_alike(
    collection: Collection, encoder: Encoder, photographs: list[Path]
) -> None:
    """A photograph that is not there, at a threshold that everything passes."""
    collection.delete(photographs[3].stem)
    data = photographs[3].read_bytes()
    plain = query(encoder, data)
    assert len(collection.copies(plain, threshold=-2.0)) == len(photographs) - 1
    assert collection.copies(replace(plain, features=look_at(data)), threshold=-2.0) == []


def test_where_no_local_features_are_left_the_hash_stands_for_itself(
    collection: Collection, encoder: Encoder, photographs: list[Path]
) -> None:
    """A picture in blocks, of which only the coarse lights and darks are the same."""
    with Image.open(photographs[11]) as image:
        width, height = image.size
        blocks = image.convert("RGB").resize((width // 10, height // 10), Image.Resampling.BOX)
    data = png(blocks.resize((width, height), Image.Resampling.NEAREST))
    match = first(collection, replace(query(encoder, data), features=look_at(data)))
    assert (match.id, match.tier) == (photographs[11].stem, "perceptual")
    assert not match.evidence["verified"]
    assert "too few local features" in match.evidence["reason"]


def test_without_its_file_a_match_stands_as_it_is_and_says_so(
    tmp_path: Path, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in photographs[:3]:
        (source / path.name).write_bytes(path.read_bytes())
    with Catalog(tmp_path).create("files", encoder) as collection:
        build(source, collection, encoder)
        (source / photographs[0].name).unlink()
        data = png(photograph.resize((256, 128)))
        asked = replace(query(encoder, data), features=look_at(data))
        (match,) = collection.copies(asked, threshold=NEVER)
        assert (match.tier, match.evidence["verified"]) == ("perceptual", False)
        assert photographs[0].name in match.evidence["reason"]


def test_second_look_says_how_large_the_pictures_are_as_given(
    collection: Collection, encoder: Encoder, photograph: Image.Image
) -> None:
    put(collection, encoder, "large", png(photograph.resize((1536, 768))))
    data = png(photograph.resize((768, 384)))
    asked = replace(query(encoder, data), features=look_at(data))
    (match,) = (each for each in collection.copies(asked, threshold=NEVER) if each.id == "large")
    assert match.evidence["scale"] == pytest.approx(2, abs=0.01)


def test_hashes_of_what_is_deleted_are_let_go(
    collection: Collection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch,
    photographs: list[Path],
) -> None:  # fmt: skip
    monkeypatch.setattr("index.perceptual._MOST_DEAD", 5)
    perceptual, data = PerceptualIndex(collection.store), photographs[0].read_bytes()
    hash_ = query(encoder, data).hashes[0]
    rows, there = [], len(perceptual.near([hash_], 0))
    for turn in range(60):
        put(collection, encoder, f"turn {turn}", data)
        assert len(perceptual.near([hash_], 0)) > there
        collection.delete(f"turn {turn}")
        rows.append(perceptual.size)
    perceptual.close()
    assert max(rows) < 2 * collection.count()["present"] + 20


def test_second_look_goes_on_where_one_image_is_lost_or_deleted_meanwhile(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    name = photographs[0].stem
    for size in ((400, 200), (320, 160)):
        put(collection, encoder, f"{size}", png(photograph.resize(size)))
    data = png(photograph.resize((256, 128)))
    asked = replace(query(encoder, data), features=look_at(data))
    sha256 = collection.get("(400, 200)").sha256
    (collection.folder / "blobs" / sha256[:2] / sha256).unlink()
    view, perceptual = collection.refresh(), PerceptualIndex(collection.store)
    with collection.store.read() as snapshot:
        before = snapshot.version()
        collection.delete("(320, 160)")
        matches = find_matches(
            asked,
            snapshot,
            view,
            perceptual,
            Verifier(collection.read),
            collection.calibration,
            threshold=-2.0,
            limit=100,
        )
        assert snapshot.version() == before
    perceptual.close()
    verified = {match.id: match.evidence["verified"] for match in matches}
    assert verified == {name: True, "(400, 200)": False}
    assert matches == collection.copies(asked, threshold=-2.0)


def test_second_look_never_takes_one_picture_for_another(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    """One that is put in its place meanwhile, and then the first again."""
    one, other = png(photograph), photographs[1].read_bytes()
    put(collection, encoder, "a", one)
    item = collection.get("a")
    verifier = Verifier(collection.read)
    put(collection, encoder, "a", other)
    with pytest.raises(ImageNotFound, match="replaced"):
        verifier.features(item)
    put(collection, encoder, "a", one)
    assert np.array_equal(verifier.features(item).grey, look_at(one).grey)


def test_a_second_look_takes_groups_apart(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    """At a threshold that calls all pictures the same, each comes with its own copies alone."""
    names = [path.stem for path in photographs[:4]]
    for path in photographs[1:4]:
        with Image.open(path) as image:
            put(
                collection,
                encoder,
                f"{path.stem} again",
                png(image.convert("RGB").resize((300, 200))),
            )
    put(collection, encoder, f"{names[0]} again", png(photograph.resize((256, 128))))
    (whole,) = collection.duplicate_groups(threshold=-2.0).groups
    expected = sorted([name, f"{name} again"] for name in names)
    pages: list[Page] = []
    cursor = None
    while not pages or cursor:
        pages.append(
            collection.duplicate_groups(threshold=-2.0, limit=1, cursor=cursor, verify=True)
        )
        cursor = pages[-1].next_cursor
    groups = [group for page in pages for group in page.groups]
    assert sorted(sorted(item.id for item in group.images) for group in groups) == expected
    for group in groups:
        assert group.id == min(item.id for item in group.images)
        assert group.keep.id == group.images[0].id
        assert all(match.evidence["verified"] for match in group.matches)
    assert len(whole.images) > 2

    strangers = names[:2]
    collection.decide(strangers, "same")
    (group,) = (
        group
        for group in collection.duplicate_groups(threshold=-2.0, verify=True).groups
        if set(strangers) <= {item.id for item in group.images}
    )
    (said,) = (match for match in group.matches if "verdict" in match.evidence)
    assert said.evidence["verified"] is False  # people outweigh the look, which is told


def test_verdicts_outweigh_scores_and_outlive_names(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    smaller = png(photograph.resize((256, 128)))
    name, stranger = photographs[0].stem, photographs[1].stem
    put(collection, encoder, "smaller", smaller)
    asked = query(encoder, smaller)
    assert [match.id for match in collection.copies(asked, threshold=NEVER)] == ["smaller", name]

    collection.decide(["smaller", name], "different")
    collection.decide(["smaller", stranger], "same")
    for _ in range(2):
        own, match = collection.copies(asked, threshold=NEVER)
        assert (own.id, match.id, match.false_match_rate) == ("smaller", stranger, 0.0)
        assert match.evidence["verdict"] == "same"
        (group,) = collection.duplicate_groups(threshold=NEVER).groups
        assert {item.id for item in group.images} == {"smaller", stranger}
        assert group.matches[0].evidence["verdict"] == "same"
        put(collection, encoder, name, png(photograph))
        collection.compact()

    collection.delete("smaller")
    put(collection, encoder, "another name", smaller)
    found = [match.id for match in collection.copies(asked, threshold=NEVER)]
    assert found == ["another name", stranger]
    collection.decide(["another name", name], None)
    collection.decide(["another name", stranger], None)
    found = [match.id for match in collection.copies(asked, threshold=NEVER)]
    assert found == ["another name", name]


def test_a_verdict_holds_for_files_of_equal_pixels(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    """Copies of a query and groups agree on that, whichever of the files is asked about."""
    name, stranger = photographs[0].stem, photographs[1].stem
    small = photograph.resize((256, 128))
    files = {"one": png(small), "other": png(small, level=1)}
    for each, data in files.items():
        put(collection, encoder, each, data)

    def copies(data: bytes) -> dict[str, object]:
        matches = collection.copies(query(encoder, data), threshold=NEVER)
        return {match.id: match.evidence.get("verdict") for match in matches}

    twins = {"one": None, "other": None}
    another = png(small, level=2)  # which the collection does not have
    collection.decide([name, "one"], "different")
    assert copies(png(photograph)) == {name: None}
    for data in (*files.values(), another):
        assert copies(data) == twins
    (group,) = collection.duplicate_groups(threshold=NEVER).groups
    assert {item.id for item in group.images} == set(twins)

    collection.decide([stranger, "one"], "same")
    with Image.open(photographs[1]) as image:
        assert copies(png(image.convert("RGB"))) == {stranger: None, "one": "same", "other": "same"}
    for data in (*files.values(), another):
        assert copies(data) == twins | {stranger: "same"}
    (group,) = collection.duplicate_groups(threshold=NEVER).groups
    assert group.keep.id == stranger
    said = {match.id: match.evidence.get("verdict") for match in group.matches}
    assert said == {"one": "same", "other": "same"}


def test_what_is_called_different_takes_no_place_of_a_copy(
    collection: Collection, encoder: Encoder, photograph: Image.Image
) -> None:
    """Also where several images are the same file."""
    data = png(photograph)
    put(collection, encoder, "asked", data)
    for number, size in enumerate([(500, 250), (500, 250), (450, 225), (300, 150)]):
        put(collection, encoder, f"{number}", png(photograph.resize(size)))
        collection.decide(["asked", f"{number}"], "different")
    collection.delete("asked")
    asked = replace(query(encoder, data), hashes=(), pixel_sha256="")
    matches = collection.copies(asked, threshold=-2.0)
    assert len(matches) > 2
    for limit in (1, 2):
        assert collection.copies(asked, threshold=-2.0, limit=limit) == matches[:limit]


def test_verdicts_that_make_no_sense_are_refused_and_change_nothing(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    name = photographs[0].stem
    put(collection, encoder, "again", png(photograph, level=1))
    with pytest.raises(InvalidVerdict, match="names 1 images, expected 2 or more"):
        collection.decide([name, name], "same")
    with pytest.raises(InvalidVerdict, match="pixel by pixel"):
        collection.decide([photographs[1].stem, name, "again"], "different")
    with pytest.raises(ImageNotFound):
        collection.decide([name, "nobody"], "same")
    with collection.store.read() as snapshot:
        assert not snapshot.verdicts().different
    collection.decide([name, "again"], "same")  # true already


def test_hashes_follow_every_write(
    collection: Collection, encoder: Encoder, photographs: list[Path], photograph: Image.Image
) -> None:
    """By this process or another; a picture that was replaced or deleted is found no more."""
    asked = query(encoder, png(photograph.resize((256, 128))))
    name = photographs[0].stem
    assert first(collection, asked).id == name
    with Image.open(photographs[1]) as other:
        put(collection, encoder, name, png(other.convert("RGB")))
    assert collection.copies(asked, threshold=NEVER) == []
    with Catalog(collection.folder.parent.parent).open("matching") as elsewhere:
        put(elsewhere, encoder, "back", png(photograph))
    assert first(collection, asked).id == "back"
    collection.delete("back")
    assert collection.copies(asked, threshold=NEVER) == []


def test_many_changes_leave_one_row_a_picture_that_counts(
    collection: Collection, encoder: Encoder, photograph: Image.Image
) -> None:
    asked = query(encoder, png(photograph.resize((256, 128))))
    for number in range(5):
        put(collection, encoder, "changing", png(photograph, level=number + 1))
        found = [match.id for match in collection.copies(asked, threshold=NEVER)]
        assert found.count("changing") == 1
