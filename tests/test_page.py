"""The web page in a real browser, against a real service."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from serving import Process, process, upload

from index.catalog import Catalog

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: on Debian, apt-get install chromium"
)
HOSTILE_ID = "<img src=x onerror=document.title='taken'>/ü?.jpg"
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder_path: Path, photographs: list[Path]
) -> Iterator[Process]:
    with process(tmp_path_factory.mktemp("page"), encoder_path) as running:
        with httpx2.Client(base_url=running.address) as filling:
            for name in ("demo", "empty", "other"):
                filling.put(f"/v1/collections/{name}", json={})
            for path in photographs:
                upload(filling, "demo", path.name, path.read_bytes())
            upload(filling, "demo", HOSTILE_ID, photographs[0].read_bytes())
            upload(filling, "other", "only.jpg", photographs[5].read_bytes())
            filling.put("/v1/collections/many", json={})
            for number in range(60):
                data = photographs[number % len(photographs)].read_bytes()
                upload(filling, "many", f"{number}.jpg", data)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has no user namespace to drop into
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, service: Process) -> Iterator[Page]:
    """A fresh page; after the test it has logged no error and asked nothing of anyone else."""
    context = browser.new_context(base_url=service.address)
    opened = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith((service.address, "blob:"))] == []
    # Chromium logs every answer of 4xx to fetch(), which some tests provoke.
    assert [each for each in errors if "Failed to load resource" not in each] == []


def pictures(page: Page) -> Any:
    return page.locator("#pictures > li")


def hand_over(page: Page, event: str, path: Path) -> None:
    """Dispatch a drop or a paste of a file, as the browser would."""
    page.evaluate(
        """([event, name, data]) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: 'image/jpeg' }));
            const init = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(event === 'paste'
                ? new ClipboardEvent('paste', { ...init, clipboardData: transfer })
                : new DragEvent('drop', { ...init, dataTransfer: transfer }));
        }""",
        [event, path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def hold_two_sizes(service: Process, collection: str, photograph: Path) -> None:
    """A new collection of a photograph, large.jpg, and the same at half the sides, small.png."""
    smaller = io.BytesIO()
    with Image.open(photograph) as image:
        image.resize((image.width // 2, image.height // 2)).save(smaller, "PNG")
    with httpx2.Client(base_url=service.address) as filling:
        filling.put(f"/v1/collections/{collection}", json={})
        upload(filling, collection, "large.jpg", photograph.read_bytes())
        upload(filling, collection, "small.png", smaller.getvalue())


def test_it_begins_with_pictures_of_the_collection(page: Page, photographs: list[Path]) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Begin with a picture")).to_be_visible()
    expect(pictures(page)).to_have_count(len(photographs) + 1)
    expect(page.locator("#pictures img.shown")).to_have_count(len(photographs) + 1)


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_from_outside_finds_its_neighbours(
    page: Page, photographs: list[Path], way: str
) -> None:
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    if way == "choose":
        with page.expect_file_chooser() as choosing:
            page.get_by_role("button", name="choose a file").click()
        choosing.value.set_files(photographs[3])
    else:
        hand_over(page, way, photographs[3])
    expect(page.locator("#query-name")).to_have_text(photographs[3].name)
    nearest = pictures(page).first
    expect(nearest.locator(".name")).to_have_text(photographs[3].name)
    expect(nearest.locator(".score")).to_have_text(re.compile("1.00$"))
    scores = [float(text.split()[-1]) for text in page.locator(".score").all_inner_texts()]
    assert len(scores) == len(photographs) + 1
    assert scores == sorted(scores, reverse=True)
    with Image.open(photographs[3]) as image:
        width, height = image.size
    assert page.locator("#query-image").evaluate("i => i.naturalWidth / i.naturalHeight") == (
        width / height
    )


def test_a_neighbour_is_searched_by_and_back_goes_back(page: Page, photographs: list[Path]) -> None:
    page.goto(f"/?collection=demo&id={photographs[1].name}")
    expect(page.locator("#query-name")).to_have_text(photographs[1].name)
    neighbour = pictures(page).first.locator(".name").inner_text()
    pictures(page).first.locator("a").click()
    expect(page.locator("#query-name")).to_have_text(neighbour)
    assert page.title().startswith(neighbour)
    page.reload()
    expect(page.locator("#query-name")).to_have_text(neighbour)
    page.go_back()
    expect(page.locator("#query-name")).to_have_text(photographs[1].name)
    page.go_forward()
    expect(page.locator("#query-name")).to_have_text(neighbour)


def test_back_returns_to_a_picture_from_outside_until_the_page_is_reloaded(
    page: Page, photographs: list[Path]
) -> None:
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    page.set_input_files("#file", photographs[2])
    expect(page.locator("#query-name")).to_have_text(photographs[2].name)
    pictures(page).nth(1).locator("a").click()
    expect(page).to_have_url(re.compile("id="))
    page.go_back()
    expect(page.locator("#query-name")).to_have_text(photographs[2].name)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("That picture was not kept.")
    expect(pictures(page).first).to_be_visible()  # there is a way on
    page.set_input_files("#file", photographs[4])
    expect(page.locator("#query-name")).to_have_text(photographs[4].name)
    page.go_back()
    expect(page.locator("#notice")).to_contain_text("That picture was not kept.")


def test_is_the_same_shows_copies_and_how_sure(
    page: Page, photographs: list[Path], tmp_path: Path
) -> None:
    mirrored = tmp_path / "mirrored.jpg"
    with Image.open(photographs[8]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored, quality=95)
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    page.set_input_files("#file", photographs[8])
    page.get_by_role("radio", name="Is the same").check()
    expect(page).to_have_url(re.compile("mode=same"))
    expect(pictures(page).first.locator(".tier")).to_have_text("The same file")
    page.set_input_files("#file", mirrored)
    expect(page.locator("#query-name")).to_have_text("mirrored.jpg")
    match = pictures(page).filter(has_text=photographs[8].name)
    expect(match.locator(".tier")).to_have_text("A copy, mirrored")
    expect(match).to_contain_text(re.compile(r"\d+ details lie where they should"))
    page.get_by_role("radio", name="Looks alike").check()
    expect(page.locator(".score").first).to_be_visible()


def test_a_copy_that_is_none_is_said_to_be_different_and_taken_back(
    page: Page, service: Process, photographs: list[Path]
) -> None:
    """What was said holds when the page comes anew; equal bytes are beyond doubt."""
    hold_two_sizes(service, "doubted", photographs[3])
    with httpx2.Client(base_url=service.address) as filling:
        upload(filling, "doubted", "again.jpg", photographs[3].read_bytes())
    address = "/?collection=doubted&id=large.jpg&mode=same"
    page.goto(address)
    small = pictures(page).filter(has_text="small.png")
    expect(small.locator(".tier")).to_have_text("A copy")
    expect(page.get_by_role("button", name=re.compile("Not the same"))).to_have_count(1)
    small.get_by_role("button", name="Not the same: small.png").click()
    expect(page.locator("#status")).to_contain_text("will not be called a copy")
    small.get_by_role("button", name="Undo: small.png").click()
    expect(page.locator("#status")).to_contain_text("is a copy again")
    small.get_by_role("button", name="Not the same: small.png").click()
    expect(small.get_by_role("button")).to_have_text("Undo")
    page.goto(address)
    expect(pictures(page)).to_have_count(1)
    page.goto("/?collection=doubted&id=small.png&mode=same")
    expect(page.locator("#notice")).to_contain_text("No copies")


def test_what_people_called_the_same_stays_so_when_a_doubt_is_taken_back(
    page: Page, service: Process, photographs: list[Path]
) -> None:
    ids = [path.name for path in photographs[:2]]
    route = "/v1/collections/said"
    with httpx2.Client(base_url=service.address) as asking:
        asking.put(route, json={})
        for path in photographs[:2]:
            upload(asking, "said", path.name, path.read_bytes())
        asking.put(f"{route}/verdicts", json={"ids": ids, "verdict": "same"})
        page.goto(f"/?collection=said&id={ids[0]}&mode=same")
        match = pictures(page).filter(has_text=ids[1])
        expect(match.locator(".tier")).to_have_text("A copy")
        expect(match).to_contain_text("as people said")
        match.get_by_role("button", name=f"Not the same: {ids[1]}").click()
        expect(page.locator("#status")).to_contain_text("will not be called a copy")
        match.get_by_role("button", name=f"Undo: {ids[1]}").click()
        expect(page.locator("#status")).to_contain_text("is a copy again")
        asked = {"query": {"id": ids[0]}, "threshold": 2}
        (found,) = asking.post(f"{route}/duplicates/check", json=asked).json()["matches"]
    assert (found["id"], found["evidence"]["verdict"]) == (ids[1], "same")


def test_more_that_comes_late_is_not_put_under_another_picture(page: Page) -> None:
    """The place before is shown again while the thumbnails of more are on their way."""
    page.goto("/?collection=many&id=0.jpg")
    expect(pictures(page)).to_have_count(24)
    pictures(page).last.locator("a").click()
    expect(page.locator("#query-name")).not_to_have_text("0.jpg")
    page.evaluate(
        """() => {
            const [kept, timer] = [HTMLImageElement.prototype.decode, window.setTimeout];
            const arrived = new Promise((resolve) => { window.arrive = resolve; });
            window.setTimeout = () => 0; // or the page would go on without them
            window.awaited = new Promise((resolve) => {
                HTMLImageElement.prototype.decode = () => { resolve(); return arrived; };
            }).then(() => {
                HTMLImageElement.prototype.decode = kept;
                window.setTimeout = timer;
            });
        }"""
    )
    page.locator("#more").click()
    page.evaluate("() => window.awaited")
    page.go_back()
    expect(page.locator("#query-name")).to_have_text("0.jpg")
    page.evaluate("() => window.arrive()")
    expect(page.locator("#more")).to_be_enabled()  # once it has done with what came
    expect(pictures(page)).to_have_count(24)


def test_what_a_button_could_not_do_is_said_beside_it(page: Page, photographs: list[Path]) -> None:
    page.goto("/?collection=many&id=0.jpg")
    expect(pictures(page)).to_have_count(24)
    page.route("**/search", lambda route: route.abort())
    page.locator("#more").click()
    expect(page.locator("#more + .failed")).to_contain_text("Kindred is not answering.")
    page.unroute("**/search")
    page.locator("#more").click()
    expect(pictures(page)).to_have_count(48)
    expect(page.locator(".failed")).to_have_count(0)
    page.route("**/search", lambda route: route.abort())
    page.locator("#more").click()
    expect(page.locator(".failed")).to_be_visible()
    page.get_by_role("link", name="Kindred", exact=True).click()
    expect(page.locator(".failed")).to_have_count(0)


def test_a_doubt_that_could_not_be_kept_is_said_beside_it(
    page: Page, service: Process, photographs: list[Path]
) -> None:
    hold_two_sizes(service, "unkept", photographs[3])
    page.goto("/?collection=unkept&id=large.jpg&mode=same")
    page.route("**/verdicts", lambda route: route.abort())
    page.get_by_role("button", name="Not the same: small.png").click()
    expect(pictures(page).locator("button + .failed")).to_contain_text("Kindred is not answering.")
    expect(pictures(page).get_by_role("button")).to_have_text("Not the same")
    page.unroute("**/verdicts")
    page.get_by_role("button", name="Not the same: small.png").click()
    expect(pictures(page).get_by_role("button")).to_have_text("Undo")
    expect(page.locator(".failed")).to_have_count(0)


def test_collections_that_could_not_be_listed_are_asked_for_again(page: Page) -> None:
    page.route("**/v1/collections", lambda route: route.abort())
    page.goto("/")
    expect(page.locator("#notice")).to_contain_text("Kindred is not answering.")
    page.get_by_role("link", name="Kindred", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("Kindred is not answering.")
    page.unroute("**/v1/collections")
    page.get_by_role("link", name="Kindred", exact=True).click()
    expect(pictures(page).first).to_be_visible()


def test_while_copies_are_looked_for_the_menu_is_there_and_a_sign_of_work(page: Page) -> None:
    held: list[Route] = []
    page.route("**/duplicates/check", lambda route: held.append(route))
    with page.expect_request("**/duplicates/check"):
        page.goto("/?collection=other&id=only.jpg&mode=same", wait_until="commit")
    expect(page.get_by_label("Collection")).to_have_value("other")
    working = "getComputedStyle(document.querySelector('.bar'), '::after').animationName"
    assert page.evaluate(working) == "working"
    held[0].continue_()
    expect(page.locator("#notice")).to_contain_text("No copies in other.")
    expect(page.locator("body")).not_to_have_class("busy")
    assert page.evaluate(working) == "none"


def test_where_there_is_no_copy_it_says_so_and_how_strict_it_was(page: Page) -> None:
    page.goto("/?collection=other&id=only.jpg&mode=same")
    expect(page.locator("#notice")).to_contain_text("No copies in other.")
    expect(page.locator("#notice")).to_contain_text(re.compile(r"at most 1 in [\d,]+ would pass"))


def test_everything_is_reached_with_the_keyboard(page: Page, photographs: list[Path]) -> None:
    page.goto(f"/?collection=demo&id={photographs[0].name}")
    expect(pictures(page).first).to_be_visible()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML"))
    for part in ('id="collection"', 'class="pick"', 'type="radio"', 'class="frame"'):
        assert any(part in each for each in reached), part
    name = page.evaluate("document.activeElement.querySelector('.name').textContent")
    page.keyboard.press("Enter")
    expect(page.locator("#query-name")).to_have_text(name)
    assert page.evaluate("document.activeElement.id") == "results"
    page.get_by_role("radio", name="Looks alike").focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("mode=same"))


def test_the_collection_can_be_changed(page: Page) -> None:
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    page.get_by_label("Collection").select_option("other")
    expect(pictures(page)).to_have_count(1)
    expect(page).to_have_url(re.compile("collection=other"))
    page.get_by_label("Collection").select_option("empty")
    expect(page.locator("#notice")).to_contain_text("“empty” holds no pictures yet.")
    expect(page.locator("#notice")).to_contain_text("kindred-index build FOLDER --collection empty")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/?collection=demo&id=no-such.jpg", "That picture is not here any more."),
        ("/?collection=unheard-of", "There is no such collection."),
    ],
)
def test_what_is_not_there_is_said_in_plain_words(page: Page, path: str, said: str) -> None:
    page.goto(path)
    expect(page.locator("#notice")).to_contain_text(said)


@pytest.mark.parametrize("way", ["menu", "home"])
def test_from_a_collection_that_is_not_there_there_is_a_way_on(page: Page, way: str) -> None:
    page.goto("/?collection=unheard-of")
    menu = page.get_by_label("Collection")
    expect(menu.locator("option:checked")).to_have_text("unheard-of (not here)")
    if way == "menu":
        menu.select_option("other")
    else:
        page.get_by_role("link", name="Kindred", exact=True).click()
    expect(pictures(page).first).to_be_visible()
    expect(menu).not_to_contain_text("not here")


def test_a_file_that_is_no_picture_is_refused_in_plain_words(page: Page) -> None:
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    page.set_input_files("#file", Path(__file__))
    expect(page.locator("#notice")).to_contain_text("That is not a picture that can be read here.")
    expect(pictures(page).first).to_be_visible()


def test_an_id_that_looks_like_html_stays_text(page: Page) -> None:
    page.goto("/?collection=demo")
    page.get_by_role("link", name=HOSTILE_ID).click()
    expect(page.locator("#query-name")).to_have_text(HOSTILE_ID)
    assert page.title() == f"{HOSTILE_ID} · Kindred"


def test_every_picture_and_control_has_a_name(page: Page, photographs: list[Path]) -> None:
    page.goto(f"/?collection=demo&id={photographs[0].name}")
    expect(pictures(page).first).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('img, button, select, input:not([hidden]), a')]
            .filter((each) => each.checkVisibility() || each.matches('input'))
            .filter((each) => !(each.alt || each.labels?.[0]?.textContent.trim()
                || each.textContent.trim() || each.querySelector?.('img[alt]')?.alt))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_by_day_and_night(
    browser: Browser, service: Process, photographs: list[Path], scheme: Any, width: int
) -> None:
    context = browser.new_context(
        base_url=service.address,
        viewport={"width": width, "height": 740},
        color_scheme=scheme,
    )
    page = context.new_page()
    for path in ("/", f"/?collection=demo&id={photographs[0].name}", "/docs"):
        page.goto(path)
        expect(page.locator("#pictures img.shown, #reference section").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "['color', 'backgroundColor'].map((name) => "
        "getComputedStyle(document.body)[name].match(/[0-9]+/)[0])"
    )
    assert (int(ink) > int(paper)) == (scheme == "dark")
    context.close()


@pytest.mark.parametrize("width", [320, 375, 414])
def test_a_long_name_does_not_push_the_button_off_a_phone(
    browser: Browser, service: Process, photographs: list[Path], width: int
) -> None:
    name = "family-photos-of-the-summer-2019"
    with httpx2.Client(base_url=service.address) as filling:
        filling.put(f"/v1/collections/{name}", json={})
        upload(filling, name, "a.jpg", photographs[0].read_bytes())
    context = browser.new_context(
        base_url=service.address, viewport={"width": width, "height": 740}
    )
    page = context.new_page()
    page.goto(f"/?collection={name}")
    expect(pictures(page).first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("button", name="Choose a picture")).to_be_in_viewport(ratio=1)
    assert page.locator("#collection").evaluate("each => each.clientWidth") > 60
    context.close()


@pytest.mark.parametrize(("width", "height"), [(844, 390), (932, 430), (1280, 600)])
def test_the_way_to_what_is_the_same_is_seen_on_a_low_screen(
    browser: Browser, service: Process, photographs: list[Path], width: int, height: int
) -> None:
    """With a portrait picture, whose column is the highest."""
    portrait = io.BytesIO()
    with Image.open(photographs[0]) as image:
        image.resize((300, 600)).save(portrait, "JPEG")
    with httpx2.Client(base_url=service.address) as filling:
        upload(filling, "demo", "portrait.jpg", portrait.getvalue())
    context = browser.new_context(
        base_url=service.address, viewport={"width": width, "height": height}
    )
    page = context.new_page()
    page.goto("/?collection=demo&id=portrait.jpg")
    expect(pictures(page).first).to_be_visible()
    expect(page.get_by_text("Is the same", exact=True)).to_be_in_viewport(ratio=1)
    context.close()
    with httpx2.Client(base_url=service.address) as filling:
        filling.delete("/v1/collections/demo/images/portrait.jpg")


def test_a_picture_that_no_browser_shows_leaves_its_name_room_on_a_phone(
    browser: Browser, service: Process, tmp_path: Path, photographs: list[Path]
) -> None:
    with Image.open(photographs[0]) as image:
        image.save(tmp_path / "a picture of the last summer.tiff")
    context = browser.new_context(base_url=service.address, viewport={"width": 390, "height": 740})
    page = context.new_page()
    page.goto("/?collection=demo")
    expect(pictures(page).first).to_be_visible()
    page.set_input_files("#file", tmp_path / "a picture of the last summer.tiff")
    expect(page.locator("#query-unseen")).to_be_visible()
    assert page.locator("figcaption").evaluate("each => each.clientWidth") > 120
    context.close()


def test_the_reference_lists_every_route_and_every_problem(page: Page, service: Process) -> None:
    schema = httpx2.get(f"{service.address}/openapi.json").json()
    page.goto("/docs#overloaded")
    shown = page.locator("#reference .route")
    routes = sum(len(each) for each in schema["paths"].values())
    expect(shown).to_have_count(routes + len(schema["x-problems"]))
    expect(page.locator("#overloaded")).to_be_in_viewport()


def test_pictures_that_are_gone_do_not_hide_those_behind_them_and_damage_is_called_damage(
    browser: Browser, tmp_path: Path, encoder_path: Path, photographs: list[Path]
) -> None:
    broken = tmp_path / "collections" / "broken"
    broken.mkdir(parents=True)
    (broken / "kindred.sqlite3").write_bytes(b"not a database" * 100)
    with process(tmp_path, encoder_path) as running:
        with httpx2.Client(base_url=running.address) as filling:
            filling.put("/v1/collections/moved", json={})
            for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
                upload(filling, "moved", name, photographs[0].read_bytes())
        with Catalog(tmp_path).open("moved") as collection:
            collection.mark_gone(collection.items()[:3])
        context = browser.new_context(base_url=running.address)
        page = context.new_page()
        page.route(  # as a collection of many: pages of two
            "**/images?*", lambda route: route.continue_(url=route.request.url.replace("500", "2"))
        )
        page.goto("/?collection=moved")
        expect(pictures(page)).to_have_count(1)
        expect(page.get_by_role("link", name="d.jpg")).to_be_visible()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.get_by_label("Collection")).to_contain_text("broken (damaged)")
        page.get_by_label("Collection").select_option("broken")
        expect(page.locator("#notice")).to_contain_text("This collection cannot be read.")
        assert str(tmp_path) not in page.locator("body").inner_text()
        context.close()


def test_when_the_service_has_gone_it_says_so(
    browser: Browser, tmp_path: Path, encoder_path: Path
) -> None:
    with process(tmp_path, encoder_path) as running:
        context = browser.new_context(base_url=running.address)
        page = context.new_page()
        page.goto("/")
        expect(page.locator("#notice")).to_contain_text("There is no collection yet.")
        with httpx2.Client(base_url=running.address) as filling:
            filling.put("/v1/collections/late", json={})
        page.reload()
        expect(page.locator("#notice")).to_contain_text("“late” holds no pictures yet.")
        running.kill()
        page.set_input_files("#file", Path(__file__))
        expect(page.locator("#notice")).to_contain_text("Kindred is not answering.")
        context.close()
