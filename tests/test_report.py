"""Groups as a page and as a table: all of it there, nothing from outside, no text that acts."""

from __future__ import annotations

import base64
import csv
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pictures import jpeg, put
from PIL import Image
from playwright.sync_api import sync_playwright

from index.build import build
from index.catalog import Catalog
from index.collection import Collection, Group
from index.encoder import Encoder
from index.image import thumbnail
from index.printable import printable
from index.report import MOST_IMAGES, Terms, spare_bytes, write_csv, write_html

NEVER = 9.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TERMS = Terms("pictures", 1234, 0.341, 9.94e-6, "pixels")
HOSTILE_ID = (
    "=<script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&\n\u202egnp.jpg"
)


@pytest.fixture(scope="module")
def collection(
    tmp_path_factory: pytest.TempPathFactory, encoder: Encoder, photographs: list[Path]
) -> Iterator[Collection]:
    """A photograph with its left half; another twice, once under a hostile id; one that went."""
    folder = tmp_path_factory.mktemp("report")
    source = folder / "source"
    source.mkdir()
    shutil.copy(photographs[0], source / "whole.jpg")
    with Image.open(photographs[0]) as image:
        image.crop((0, 0, image.width // 2, image.height)).save(source / "left.png")
    for name in ("gone.jpg", "kept.jpg"):
        shutil.copy(photographs[2], source / name)
    with Catalog(folder).create("pictures", encoder) as opened:
        build(source, opened, encoder)
        for name in ("twin", HOSTILE_ID):
            put(opened, encoder, name, photographs[1].read_bytes())
        opened.decide(["whole.jpg", "left.png"], "same")
        (source / "gone.jpg").unlink()
        yield opened


@pytest.fixture(scope="module")
def groups(collection: Collection) -> list[Group]:
    found = collection.duplicate_groups(threshold=NEVER, verify=True).groups
    assert [group.id for group in found] == [HOSTILE_ID, "gone.jpg", "left.png"]
    return list(found)


def page(path: Path, groups: Sequence[Group], collection: Collection, limit: int = 99) -> str:
    write_html(path, groups, TERMS, collection.read, limit=limit)
    return path.read_text("utf-8")


class Reading(HTMLParser):
    """What a browser makes of a page: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


def test_a_page_is_whole_by_itself_and_no_name_acts_in_it(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    reading = Reading(page(tmp_path / "report.html", groups, collection))
    assert "script" not in reading.tags
    assert "img" not in reading.tags
    assert not [name for name, _ in reading.attributes if name.startswith("on")]
    links = [value for name, value in reading.attributes if name in ("href", "src")]
    assert links
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        reading.attributes
    )
    assert printable(HOSTILE_ID) in reading.text
    assert "\u202e" not in "".join(reading.text)


def test_totals_tiers_and_terms_are_stated(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    text = " ".join(Reading(page(tmp_path / "report.html", groups, collection)).text)
    spare = sum(map(spare_bytes, groups))
    for words in (
        "1,234 images in the collection",
        "3 groups of copies",
        "6 images in groups",
        f"3 to spare {spare / 1000:.1f} kB to win",
        "Of those to spare: 2 same bytes, 1 near in",
        "has the most pixels",
        "from a score of 0.341 on; 1 in 100,000 pairs of different pictures come as close",
    ):
        assert words in text, words
    assert "leaves out" not in text


def test_a_group_shows_the_one_to_keep_and_the_evidence_of_the_others(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    text = page(tmp_path / "report.html", groups, collection)
    words = " ".join(Reading(text).text)
    assert "keep: most pixels (384 × 192)" in words
    assert "a person said it." in words
    assert re.search(r"A second look confirms it: \d+ local features agree, and \d+%", words)
    assert "It shows 50% of the one to keep." in words
    (outline,) = re.findall(r'<polygon class="over" points="([^"]*)"', text)
    corners = [tuple(map(float, point.split(","))) for point in outline.split()]
    for corner, expected in zip(corners, [(0, 0), (500, 0), (500, 500), (0, 500)], strict=True):
        assert corner == pytest.approx(expected, abs=10)  # of a width of 1000


def test_a_file_that_cannot_be_read_is_a_tile_with_the_reason(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    text = page(tmp_path / "report.html", groups, collection)
    assert re.search(r'<div class="tile missing">[^<]*gone\.jpg is not there</div>', text)


def test_pictures_are_those_that_the_service_shows(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    text = page(tmp_path / "report.html", groups, collection)
    for name in ("twin", "whole.jpg", "left.png", "kept.jpg"):
        assert base64.b64encode(thumbnail(collection.read(name))).decode() in text


def test_a_page_of_some_groups_shows_those_that_win_most_and_counts_the_rest(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    reading = Reading(page(tmp_path / "report.html", groups, collection, limit=1))
    assert reading.tags.count("section") == 1
    most = max(groups, key=spare_bytes)
    assert printable(most.id) in reading.text
    assert "shows the 1 groups that win the most bytes, and leaves out the other 2;" in " ".join(
        reading.text
    )


def test_no_groups_make_a_page_that_says_so(tmp_path: Path, collection: Collection) -> None:
    assert "No image is a copy of another." in page(tmp_path / "report.html", [], collection)


def test_many_images_of_the_same_bytes_take_one_place_and_many_others_are_counted(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    group = next(group for group in groups if group.id == "left.png")
    keep, other = group.images
    (match,) = group.matches

    def larger(sha256s: Sequence[str]) -> Group:
        others = [
            replace(other, id=f"{number:03}", sha256=sha256)
            for number, sha256 in enumerate(sha256s)
        ]
        matches = tuple(replace(match, id=item.id) for item in others)
        return replace(group, images=(keep, *others), matches=matches)

    def read(_: str) -> bytes:
        return jpeg(0)

    write_html(tmp_path / "same", [larger(["same"] * 99)], TERMS, read, limit=1)
    reading = Reading((tmp_path / "same").read_text())
    assert reading.tags.count("section") == 1
    assert "000" in reading.text
    assert "and 93 more." in reading.text
    assert "006" not in reading.text
    write_html(tmp_path / "other", [larger([str(n) for n in range(99)])], TERMS, read, limit=1)
    text = " ".join(Reading((tmp_path / "other").read_text()).text)
    assert f"And {99 - (MOST_IMAGES - 1)} more in this group" in text


def test_a_table_has_a_row_an_image_and_reads_back_as_it_was(
    tmp_path: Path, groups: list[Group]
) -> None:
    write_csv(tmp_path / "groups.csv", groups)
    with (tmp_path / "groups.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = [(group, item) for group in groups for item in group.images]
    assert len(rows) == len(images)
    for row, (group, item) in zip(rows, images, strict=True):
        assert row["id"].removeprefix("'") == item.id
        assert row["group"].removeprefix("'") == group.id
        assert row["source"] == item.source
        assert row["keep"] == ("yes" if item.id == group.keep.id else "no")
        assert (row["width"], row["height"]) == (str(item.width), str(item.height))
        assert (row["size_bytes"], row["format"]) == (str(item.size_bytes), item.format)
        match = {match.id: match for match in group.matches}.get(item.id)
        assert row["tier"] == (match.tier if match else "")
        assert bool(row["score"]) == bool(row["false_match_rate"]) == (match is not None)
        look = match.evidence.get("verified") if match else None
        assert row["verified"] == {None: "", True: "yes", False: "no"}[look]
        if match:
            assert float(row["score"]) == pytest.approx(match.score, abs=1e-6)
    assert {row["verified"] for row in rows} == {"", "yes"}


def test_no_cell_of_a_table_begins_like_a_formula(tmp_path: Path, groups: list[Group]) -> None:
    for start in "=+-@\t\r":
        image = replace(groups[0].images[0], id=f"{start}1")
        group = replace(groups[0], id=image.id, images=(image,), matches=())
        write_csv(tmp_path / "groups.csv", [group])
        with (tmp_path / "groups.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["id"] == row["group"] == f"'{start}1"


def test_what_is_there_stays_until_the_new_file_is_whole(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def broken(_: str) -> bytes:
        raise RuntimeError("the disk fell off")

    with pytest.raises(RuntimeError):
        write_html(path, groups, TERMS, broken, limit=9)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\x1b[31m", "a\ufffdb\ufffdc\ufffd[31m"),
        ("\udcff\u2028\u202e", "\ufffd\ufffd\ufffd"),
        ("übung 写真\u3000👨\u200d👩 é.jpg", "übung 写真\u3000👨\u200d👩 é.jpg"),
    ],
)
def test_what_does_not_show_is_replaced_and_all_writing_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: on Debian, apt-get install chromium")
def test_a_browser_shows_every_picture_asks_nobody_and_fits_a_phone(
    tmp_path: Path, groups: list[Group], collection: Collection
) -> None:
    page(tmp_path / "report.html", groups, collection)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has no user namespace to drop into
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        opened = browser.new_page(viewport={"width": 360, "height": 740})
        said: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto((tmp_path / "report.html").as_uri())
        assert opened.title() == "Copies in pictures"
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360
        tiles = opened.locator("svg.tile")
        assert tiles.count() == 6  # five that can be read, and one again with an outline
        assert all(tiles.nth(number).bounding_box() for number in range(tiles.count()))
        backgrounds = []
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            backgrounds.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert backgrounds == ["rgb(251, 250, 247)", "rgb(20, 19, 18)"]
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
