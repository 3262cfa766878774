"""The page of a run: what it measures, what it shows, and what it says is missing."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from torch.nn import functional

from index.image import Fit
from trainer import cli
from trainer.data import load_images
from trainer.edits import EditSettings
from trainer.pretrain import pretrain
from trainer.report import ReportSettings, charts, report, tables
from trainer.report.charts import Line, chart, ticks
from trainer.report.labels import label_fractions
from trainer.report.layout import layout, on_a_square, turned_onto
from trainer.report.measures import held, mean_cosine
from trainer.report.run import read_run
from trainer.report.sheet import Sheet
from trainer.report.transformations import transformations
from trainer.settings import PretrainSettings
from trainer.views import ViewSettings

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=document.title='taken'>"
NO_NAME = "no picture \u202egnp.jpg"
SECTIONS = "curves map neighbours invariance figures labels left-out settings".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs on photographs of three scenes, of which one has a hostile name.

    The second trains a descriptor for copies. One file is no picture.
    """
    root = tmp_path_factory.mktemp("report")
    for row, path in enumerate(sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[:36]):
        scene = (HOSTILE.replace("/", ""), "hills", "sea")[row % 3]
        (root / "pictures" / scene).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "pictures" / scene)
    (root / "pictures" / "sea" / NO_NAME).write_bytes(b"\xff\xd8\xff nothing")
    for name in ("plain", "with copies"):
        pretrain(
            PretrainSettings(
                data=str(root / "pictures"), eval_data=str(root / "pictures"),
                out=str(root / name), image_size=16, width=0.125, option={"projection_width": 16},
                batch_size=12, epochs=2, device="cpu", copies=name != "plain",
                descriptor_width=256 if name == "plain" else 24,
            )
        )  # fmt: skip
    return [root / "plain", root / "with copies"]


@pytest.fixture(scope="module")
def both(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both runs."""
    out = tmp_path_factory.mktemp("page") / "both.html"
    made = report(ReportSettings(tuple(map(str, runs)), str(out), device="cpu"))
    assert not made.missing
    assert not made.skipped
    assert made.figures.keys() == {"plain", "with copies"}
    return out


@pytest.fixture
def copied(runs: list[Path], tmp_path: Path) -> Path:
    """A run that a test may damage."""
    shutil.copytree(runs[0], tmp_path / "damaged")
    return tmp_path / "damaged"


def run(*arguments: str | Path) -> int:
    return cli.main(["report", *map(str, arguments), "--device", "cpu", "--json"])


def last_object(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


# What is measured


def test_triples_and_cosines_are_those_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (functional.normalize(torch.randn(9, 5, generator=generator), dim=1) for _ in range(2))
    others = [(row, other) for row in range(9) for other in range(9) if row != other]
    nearer = [float(x[row] @ y[row]) > float(x[row] @ x[other]) for row, other in others]
    found = held(x, y)
    assert found.triples == pytest.approx(sum(nearer) / len(others))
    assert 0 < found.triples < 1
    own = [float(x[row] @ y[row]) for row in range(9)]
    assert found.cosine == pytest.approx(sum(own) / 9, abs=1e-6)
    unrelated = [float(x[row] @ x[other]) for row, other in others]
    assert mean_cosine(x) == pytest.approx(sum(unrelated) / len(others), abs=1e-6)


def test_what_changes_nothing_is_overlooked_altogether() -> None:
    x = functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    assert held(x, x).cosine == pytest.approx(1)
    assert held(x, x).triples == 1


def test_every_augmentation_of_the_trainer_is_a_transformation_of_its_own() -> None:
    """One that is added to views or edits comes into the table by itself, and changes pictures."""
    found = list(transformations(24))
    asked = [
        name.removesuffix("_probability").replace("_", " ")
        for settings in (ViewSettings, EditSettings)
        for name in settings.__dataclass_fields__
        if name.endswith("_probability")
    ]
    assert [each.name for each in found] == [
        "crop", *asked[: asked.index("crop")], "all of SimCLR's", *asked[asked.index("crop") :],
        "all of SSCD's",
    ]  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (6, 3, 24, 24), np.uint8)
    pictures = torch.from_numpy(noise)
    for each in found:
        shown, again = (
            each.show(pictures, generator=torch.Generator().manual_seed(5)) for _ in range(2)
        )
        assert torch.equal(shown, again), each.name
        changed = (shown - pictures / 255).abs().amax((1, 2, 3)) > 0.01
        assert changed.float().mean() >= 0.5, each.name
        if each.name == "flip":
            assert torch.allclose(shown, pictures.flip(3) / 255, atol=1e-5)


def test_few_labels_are_of_every_class_and_none_is_measured_on() -> None:
    """Of classes that are apart each share finds all; of vectors without likeness, chance is left.

    Had what is measured on been learnt from, the latter would be found, too.
    """
    labels = np.repeat(["a", "b", "c", "alone"], [40, 40, 40, 1])
    apart = torch.eye(4)[torch.arange(4).repeat_interleave(torch.tensor([40, 40, 40, 1]))]
    fractions = label_fractions(apart, labels, seed=0)
    assert [(each.share, each.labels) for each in fractions] == [(0.01, 3), (0.1, 9), (1.0, 96)]
    assert all(each.knn == each.linear == 1 for each in fractions)
    chance = label_fractions(torch.eye(121), labels, seed=0)
    assert all(max(each.knn, each.linear) < 0.6 for each in chance)


def test_labels_that_all_differ_have_no_fractions() -> None:
    assert label_fractions(torch.eye(5), np.array(list("abcde")), seed=0) == ()
    assert label_fractions(torch.eye(5), np.array(list("aaaaa")), seed=0) == ()


def test_map_is_the_same_again_and_keeps_classes_together() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(8, dtype=np.float32)[:3], 20, axis=0)
    x = centres + generator.normal(0, 0.05, centres.shape).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    places = layout(x, seed=0)
    assert np.array_equal(places, layout(x, seed=0))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(1) // 20 == np.arange(60) // 20).all()
    square = on_a_square(places)
    assert square.min() >= 0
    assert square.max() <= 1
    assert np.ptp(square, axis=0).max() == pytest.approx(1)


def test_map_of_a_collapsed_network_is_one_place() -> None:
    alike = np.repeat(np.array([[0.6, 0.8]], np.float32), 10, axis=0)
    assert (on_a_square(layout(alike, seed=0)) == 0.5).all()


@given(st.floats(0, 6.3), st.booleans())
def test_turned_map_lies_on_the_other(angle: float, mirrored: bool) -> None:
    places = np.random.default_rng(3).normal(size=(12, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = places @ turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    assert np.allclose(turned_onto(turned, places), places)


# What it is shown with


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_hold_the_values(low: float, extent: float) -> None:
    found = ticks(low, low + extent, 5)
    steps = np.diff(found)
    slack = 1e-6 * steps[0]
    assert 2 <= len(found) <= 7
    assert np.allclose(steps, steps[0])
    assert found[0] <= low + slack
    assert found[-1] >= low + extent - slack


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0], [1e-9, 1e9], list(range(9999))])
def test_chart_holds_its_line(values: list[float]) -> None:
    drawn = chart("loss & more", [Line(0, np.arange(len(values), dtype=float), np.array(values))])
    assert "loss &amp; more over epochs" in drawn
    (path,) = re.findall(r'class="line run-0" d="M([^"]+)"', drawn)
    points = np.array([point.split() for point in path.split("L")], float)
    assert len(points) == min(len(values), charts.MOST_POINTS)
    assert (points >= 0).all()
    assert (points <= (charts.WIDTH, charts.HEIGHT)).all()


def test_each_picture_is_found_at_its_place_on_the_sheet() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (11, 1, 1, 3), np.uint8)
    sheet = Sheet("picture", np.broadcast_to(colours, (11, 40, 40, 3)))
    (data,) = re.findall(r"base64,([^)]+)\)", sheet.rule())
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        whole = np.asarray(opened.convert("RGB")).astype(int)
    for row in range(11):
        across, down = map(float, re.findall(r"([\d.]+)%", sheet.place(row)))
        left = round(across / 100 * (whole.shape[1] - 40))  # as CSS places a background
        top = round(down / 100 * (whole.shape[0] - 40))
        middle = whole[top + 10 : top + 30, left + 10 : left + 30].mean((0, 1))
        assert np.abs(middle - colours[row, 0, 0]).max() < 12
        assert sheet.colours[row] == "#" + colours[row].tobytes().hex()


def test_page_has_every_section_and_names_no_other_address(both: Path) -> None:
    text = both.read_text("utf-8")
    assert re.findall(r'<section id="([\w-]+)"', text) == SECTIONS
    assert "://" not in text
    for words in ("kNN accuracy", "learning rate", "loss of the copies", "quarter turn", "RankMe",
                  "alignment", "uniformity", "solarize", "unrelated pictures", "data digest",
                  "by descriptor"):  # fmt: skip
        assert words in text, words
    assert "no picture \ufffdgnp.jpg" in text
    assert text.count('class="chart"') == 6
    assert text.count("<b>resnet18 x0.125</b>") == 2  # as encoder files name it


def test_settings_that_followed_others_are_told_where_these_differ(
    runs: list[Path], copied: Path
) -> None:
    """Nobody chose the rate, the warm-up, colours and blur of the one or of the other."""
    recorded = json.loads((copied / "settings.json").read_text())
    assert recorded["learning_rate"] is None
    (copied / "settings.json").write_text(json.dumps(recorded | {"batch_size": 24, "epochs": 20}))
    page = tables.settings([read_run(path, path.name) for path in (runs[0], copied)])
    differ, _, same = page.partition("<details>")
    for name, values in {
        "batch size": ("12", "24"),
        "learning rate": (f"{0.075 * 12**0.5:g}", f"{0.075 * 24**0.5:g}"),
        "warmup epochs": ("0.2", "2"),
    }.items():
        assert f">{name}</th><td>{values[0]}</td><td>{values[1]}</td>" in differ
    for name, value in {"jitter strength": "0.5", "blur probability": "0"}.items():
        assert f">{name}</th><td>{value}</td><td>{value}</td>" in same


def test_text_of_names_is_never_markup(both: Path) -> None:
    text = both.read_text("utf-8")
    assert "<img" not in text
    assert "&lt;img src=x onerror=" in text
    assert "\u202e" not in text


def test_second_report_is_of_the_same_pictures(
    runs: list[Path], both: Path, tmp_path: Path
) -> None:
    """Figures of a run do not depend on what it stands beside, nor on the day."""
    made = report(ReportSettings((str(runs[0]),), str(tmp_path / "one.html"), device="cpu"))
    again = report(ReportSettings((str(runs[0]),), str(tmp_path / "again.html"), device="cpu"))
    assert made.figures == again.figures
    (scores,) = [each["scores"] for each in made.figures.values()]
    assert 0 <= scores["embedding"]["knn"] <= 1


# In a browser

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: on Debian, apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has no user namespace to drop into
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield launched
        launched.close()


@pytest.fixture(params=[(360, "dark"), (1280, "light")], ids=["phone", "desk"])
def page(browser: Browser, both: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page without a network; after the test it has logged nothing and asked for nothing."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme=scheme, offline=True,
        has_touch=width == 360,
    )  # fmt: skip
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text))
    opened.goto(both.as_uri())
    opened.on("request", lambda asked: problems.append(asked.url))
    yield opened
    assert problems == []
    context.close()


@needs_browser
def test_page_fits_the_screen_in_light_and_dark(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    red = int(
        re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0]
    )
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (red < 60) if dark else (red > 200)
    assert page.title() == "What plain and with copies learnt"


@needs_browser
def test_pointing_at_a_map_shows_the_picture_and_marks_it_in_both(page: Page) -> None:
    look, first = page.locator("#look"), page.locator(".map").first
    assert look.is_hidden()
    first.scroll_into_view_if_needed()
    # Its event comes with the next frame, and would hide what the pointer then shows.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point = first.locator("i.picture").first
    box = point.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if page.evaluate("navigator.maxTouchPoints"):
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(x, y)
    look.wait_for(state="visible")
    marked = page.locator(".map .at")
    assert marked.count() == 2
    numbers = {marked.nth(row).get_attribute("data-n") for row in range(2)}
    assert len(numbers) == 1
    name = page.locator(f"#names li >> nth={numbers.pop()}").text_content()
    assert look.text_content() == name
    place = look.locator("i").evaluate("each => getComputedStyle(each).backgroundPosition")
    own = marked.first.evaluate("each => getComputedStyle(each).backgroundPosition")
    assert [round(float(part), 1) for part in re.findall(r"[\d.]+", place)] == [
        round(float(part), 1) for part in re.findall(r"[\d.]+", own)
    ]
    shown = look.bounding_box()
    assert shown
    assert shown["x"] >= 0
    assert shown["x"] + shown["width"] <= page.evaluate("innerWidth")


@needs_browser
def test_arrow_keys_go_through_the_pictures(page: Page) -> None:
    page.locator(".map").first.focus()
    seen = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.evaluate("window.dispatchEvent(new Event('scroll'))")  # of the focus, arriving late
        seen.append(page.locator(".map .at").first.get_attribute("data-n"))
    page.keyboard.press("ArrowLeft")
    assert seen == ["0", "1", "2"]
    assert page.locator(".map .at").first.get_attribute("data-n") == "1"
    page.keyboard.press("Escape")
    assert page.locator("#look").is_hidden()


# What is missing


def test_run_without_checkpoint_has_a_page_of_what_is_there(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "checkpoint.pt").unlink()
    assert run(copied, "--out", tmp_path / "page.html") == cli.LEFT_OUT
    found = last_object(capsys)
    assert found["images"] == 0
    assert "has no checkpoint.pt" in found["missing"][0]
    text = (tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r'<section id="([\w-]+)"', text) == ["curves", "left-out", "settings"]
    assert "has no checkpoint.pt" in text


def test_damaged_checkpoint_stands_beside_a_whole_run(
    runs: list[Path], copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole one is measured, whichever comes first."""
    (copied / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    assert run(copied, runs[1], "--out", tmp_path / "page.html") == cli.LEFT_OUT
    found = last_object(capsys)
    assert found["figures"].keys() == {"with copies"}
    (missing,) = found["missing"]
    assert "damaged: " in missing
    assert "cannot be read" in missing
    text = (tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r'<section id="([\w-]+)"', text) == SECTIONS


def test_log_that_a_kill_cut_off_is_read_as_far_as_it_goes(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (copied / "log.jsonl").open("a") as log:
        log.write('{"epoch": 9, "lo')
    assert run(copied, "--out", tmp_path / "page.html") == cli.LEFT_OUT
    (missing,) = last_object(capsys)["missing"]
    assert "1 of " in missing
    assert (tmp_path / "page.html").read_text("utf-8").count('class="chart"') == 4


def test_source_that_is_gone_is_not_needed(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run keeps its pictures decoded; only their names are lost."""
    recorded = json.loads((copied / "settings.json").read_text())
    recorded |= {"data": str(tmp_path / "gone"), "eval_data": str(tmp_path / "gone")}
    (copied / "settings.json").write_text(json.dumps(recorded))
    assert run(copied, "--out", tmp_path / "page.html") == cli.DONE
    assert last_object(capsys)["images"] == 36
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "picture 36" in text
    assert "does not tell of all" not in text
    for cache in ("data", "eval-data"):
        shutil.rmtree(copied / cache)
    assert run(copied, "--out", tmp_path / "page.html") == cli.LEFT_OUT
    found = last_object(capsys)
    assert found["images"] == 0
    assert any("no pictures to look at" in each for each in found["missing"])
    assert "does not tell of all" in (tmp_path / "page.html").read_text("utf-8")


def test_pictures_that_the_run_did_not_learn_from_are_not_shown_as_its_own(
    copied: Path, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own are decoded again from their source, while that is there."""
    recorded = json.loads((copied / "settings.json").read_text()) | {"eval_data": None}
    (copied / "settings.json").write_text(json.dumps(recorded))
    load_images(str(photographs[0].parent), Fit(32), copied / "data")
    assert run(copied, "--out", tmp_path / "page.html") == cli.DONE
    assert last_object(capsys)["images"] == 36
    (copied / "settings.json").write_text(json.dumps(recorded | {"data": str(tmp_path / "gone")}))
    assert run(copied, "--out", tmp_path / "page.html") == cli.LEFT_OUT
    assert last_object(capsys)["images"] == 0


def test_other_pictures_can_be_looked_at(
    runs: list[Path], photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without labels nothing is said of classes."""
    for path in photographs:
        (tmp_path / "others").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "others")
    assert run(
        runs[0], "--data", tmp_path / "others", "--out", tmp_path / "page.html"
    ) == cli.DONE  # fmt: skip
    found = last_object(capsys)
    assert found["images"] == 12
    assert found["figures"]["plain"]["fractions"] == []
    assert found["figures"]["plain"]["scores"]["embedding"]["knn"] is None
    text = (tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r'<section id="([\w-]+)"', text) == [
        each for each in SECTIONS if each != "labels"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "{run}", "{run}", "--out", "page.html"], "expected the folder of one or two"),
        (["{run}", "{run}", "--out", "page.html"], "is given twice"),
        (["{run}", "--out", "{run}/settings.json/page.html"], "could not be written"),
        (["{run}", "--out", "page.pdf"], "ends in .html"),
        (["{run}", "--out", "page.html", "--images", "3"], "at least 8"),
        (["{run}", "--out", "page.html", "--data", "/nowhere"], "/nowhere"),
        (["/nowhere", "--out", "page.html"], "/nowhere is not there"),
    ],
)
def test_what_makes_no_report_is_refused(
    arguments: list[str], words: str, runs: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(*(each.format(run=runs[0]) for each in arguments)) == cli.REFUSED
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("page.*"))
