"""The page in a real browser: what a user does in each tab, what is said when it is wrong, and that nothing is loaded
from elsewhere.

Pictures of the page are written into the folder that the environment variable MM_SCREENSHOTS names, else into pytest's.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from mm.app.map import project
from mm.app.runs import open_index, open_run
from mm.index import Index
from tests.app.conftest import Hostile, Served
from tests.shared import Scene

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REASON = "no Chromium: none of chromium, chromium-browser, google-chrome is on the PATH. Install one, e.g. by apt."
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
TOAST = ".toast-body"
CALLED_OFF = "signal is aborted without reason"  # what Chromium says where a player drops a sound it has not read yet

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
playwright.expect.set_options(timeout=30_000)  # ms; its own 5 s are few for a busy machine
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=REASON)


class View(NamedTuple):
    """A page in the browser, and what went on in it.

    Attributes:
        page: of Playwright.
        requests: addresses that it asked for.
        errors: that its scripts raised.
        folder: of screenshots.
    """

    page: playwright.Page
    requests: list[str]
    errors: list[str]
    folder: Path

    def tab(self, name: str) -> playwright.Locator:
        """Open a tab; returns what is in it."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        panel = self.page.get_by_role("tabpanel").locator("visible=true").last
        panel.wait_for()
        return panel

    def upload(self, within: playwright.Locator, selector: str, *files: Path) -> None:
        """Give files to an input, and wait until the server has them."""
        with self.page.expect_response(re.compile("/upload")):
            within.locator(f"{selector} input[type=file]").set_input_files(files)

    def press(self, within: playwright.Locator, button: str) -> None:
        within.get_by_role("button", name=button, exact=True).click()

    def message(self, *said: str) -> None:
        """Wait for a message that says these things, and close it."""
        toast = self.page.locator(TOAST).first
        for words in said:
            playwright.expect(toast).to_contain_text(words)
        toast.locator(".toast-close").click()
        toast.wait_for(state="detached")

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self.folder / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("MM_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def view(browser: playwright.Browser, served: Served, folder: Path) -> Iterator[View]:
    """The page, opened anew; afterwards: nothing came from elsewhere, and no script failed."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    found = View(page, [], [], folder)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.goto(served.url)
    page.get_by_role("tab", name="Explain").wait_for()
    yield found
    page.close()
    assert [error for error in found.errors if error != CALLED_OFF] == []
    assert [url for url in found.requests if not url.startswith((served.url, "data:", "blob:"))] == []
    assert len(found.requests) > 10


def test_the_page_opens_with_a_tab_for_each_thing(view: View) -> None:
    names = view.page.get_by_role("tab").all_inner_texts()
    assert names == ["Search", "Map", "Caption", "Ask", "Localise", "Separate", "Classify", "Explain"]
    assert view.page.title() == "mm"
    assert "index of 8 image, 16 text, 8 audio" in view.page.locator(".head").first.inner_text()
    assert view.page.locator("footer").locator("a").count() == 0
    view.shot("start")


def test_search(view: View, own_table: Path, index_folder: Path) -> None:
    searcher, _ = open_index(str(index_folder), [])
    page, panel = view.page, view.tab("Search")

    def answers() -> list[str]:
        return [one.get_attribute("title") for one in page.locator("#answers figcaption").all()]

    page.locator("#query textarea").fill("a red zorgl circle")
    page.locator("#query textarea").press("Enter")
    page.locator("#answers .card").first.wait_for()
    assert answers() == [hit.id for hit in searcher.query(text="a red zorgl circle", k=12)]
    assert page.locator("#answers .unknown").inner_text() == "Not known, so without a part in the query: zorgl"
    view.shot("search_text")

    page.locator("#query textarea").fill("")
    view.upload(panel, "#query", own_table.parent / "blue-square.jpg")
    view.upload(panel, "#minus", own_table.parent / "red-circle.wav")
    page.locator("#plus textarea").fill("a green circle")
    page.locator("#modality input").click()
    page.get_by_role("option", name="image").click()
    page.locator(".count input[type=number]").fill("5")
    view.press(panel, "Search")
    playwright.expect(page.locator("#answers .card")).to_have_count(5)
    hits = searcher.query(
        image=own_table.parent / "blue-square.jpg",
        plus=[("text", "a green circle")],
        minus=[("audio", own_table.parent / "red-circle.wav")],
        k=5,
        modality="image",
    )
    assert answers() == [hit.id for hit in hits]
    pictures = page.locator("#answers img")
    assert [one.evaluate("image => image.naturalWidth") for one in pictures.all()] == [48] * 5
    view.shot("search_terms")


def test_search_by_microphone(view: View) -> None:
    page, panel = view.page, view.tab("Search")
    for button in ("Record audio", "Start recording"):
        panel.locator("#query").get_by_role("button", name=button).click()
    page.wait_for_timeout(1200)  # the browser's own beeps are recorded
    with page.expect_response(re.compile("/upload")) as sent:
        panel.locator("#query").get_by_role("button", name="Stop recording").click()
        view.shot("search_recording")
        panel.locator("#query").get_by_role("button", name="Attach audio").click()
    assert sent.value.json()[0].endswith(".wav")
    view.press(panel, "Search")
    page.locator("#answers .card").first.wait_for()
    assert "could not be shown" not in page.locator("#answers").inner_text()
    view.shot("search_recorded")


def test_what_is_wrong_is_said_and_the_page_stays_up(view: View, hostile: Hostile) -> None:
    page, panel = view.page, view.tab("Search")
    page.locator("#query textarea").fill("a red circle")
    view.press(panel, "Search")
    page.locator("#answers .card").first.wait_for()
    page.locator("#query textarea").fill("")
    view.press(panel, "Search")
    view.message("the box is empty")
    playwright.expect(page.locator("#answers .card")).to_have_count(0)  # they were of another query
    page.locator("#query textarea").fill("<img src=x onerror=alert(1)> zorgl")
    page.locator("#query textarea").press("Enter")
    view.message("must have a word that the encoder knows", "<img src=x onerror=alert(1)> zorgl")
    for file, said in (
        (hostile.no_sound, "song.wav"),
        (hostile.bomb, "decompression bomb"),
        (hostile.empty, "empty.png"),
        (hostile.notes, "must be a picture, a sound or a video: got 'notes.txt'"),
    ):
        page.locator("#query textarea").fill("")
        view.upload(panel, "#query", file)
        view.press(panel, "Search")
        if file is hostile.notes:
            playwright.expect(page.locator(TOAST)).to_contain_text(said)
            page.wait_for_timeout(900)  # until it has moved into its place
            view.shot("wrong")
        view.message(said)
        page.locator("#query").get_by_role("button", name="Remove").first.click()
    page.locator("#query textarea").fill("a red circle")
    page.locator("#query textarea").press("Enter")
    page.locator("#answers .card").first.wait_for()


def test_map(view: View, index_folder: Path) -> None:
    page, drawn = view.page, project(Index.load(index_folder), "PCA")
    page.set_viewport_size({"width": 1280, "height": 1100})  # all of the map is in sight
    view.tab("Map")
    playwright.expect(page.locator("#map .note")).to_contain_text("PCA of 32 items")
    assert page.locator("#map .legend span").all_inner_texts() == ["text", "image", "audio"]
    stage = page.locator("#map canvas").bounding_box()

    def at(place: np.ndarray) -> tuple[float, float]:
        """Where on the screen a place of the map is, as long as all of it is shown."""
        size = 0.92 * min(stage["width"], stage["height"])
        x, y = stage["width"] / 2 + (place[0] - 0.5) * size, stage["height"] / 2 - (place[1] - 0.5) * size
        return float(stage["x"] + x), float(stage["y"] + y)

    for number in (drawn.ids.index("image:test-red-circle"), 20, len(drawn.ids) - 1):
        page.mouse.move(*at(drawn.points[number]), steps=2)
        distances = np.linalg.norm(drawn.points - drawn.points[number], axis=1)
        same = {str(drawn.ids[row]) for row in np.flatnonzero(distances < 0.002)}
        shown = page.locator("#map .tip:visible figcaption")
        playwright.expect(shown).to_have_attribute("title", re.compile("|".join(map(re.escape, same))))
        view.shot("map_preview")
        page.mouse.move(stage["x"] + 2, stage["y"] + 2, steps=2)
        page.locator("#map .tip").wait_for(state="hidden")

    page.mouse.move(*at(drawn.points[0]))
    page.mouse.wheel(0, -600)
    zoom = "document.querySelector('#map[data-zoom], #map [data-zoom]')?.dataset.zoom"
    page.wait_for_function(f"{zoom} > 2")
    view.shot("map_zoomed")
    page.get_by_role("button", name="show all").click()
    page.wait_for_function(f"{zoom} < 1")

    across = np.sort(drawn.points[:, 0])
    widest = int(np.diff(across).argmax())  # an edge of the box lies in the middle of the widest gap
    middle = across[widest : widest + 2].mean()
    few = slice(-0.03, middle) if widest < len(across) / 2 else slice(middle, 1.03)
    low, high = np.array([few.start, -0.03]), np.array([few.stop, 1.03])
    page.locator("#map input[value=select]").check()
    page.mouse.move(*at(low))
    page.mouse.down()
    page.mouse.move(*at(high), steps=4)
    view.shot("map_selecting")
    page.mouse.up()
    page.locator("#map .list .card").first.wait_for()
    inside = ((drawn.points >= low) & (drawn.points <= high)).all(axis=1)
    wanted = [str(drawn.ids[row]) for row in np.flatnonzero(inside)]
    found = [one.get_attribute("title") for one in page.locator("#map .list figcaption").all()]
    assert 3 < len(wanted) < 24 and found == wanted
    view.shot("map_selected")


def test_the_last_box_of_a_map_is_listed(view: View) -> None:
    """An answer that comes late does not stand there in the place of a later one."""
    page, held = view.page, []

    def hold(route: playwright.Route) -> None:
        """Let everything through but the first box."""
        if "inside" in (route.request.post_data or "") and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/component_server/**", hold)
    page.set_viewport_size({"width": 1280, "height": 1100})
    view.tab("Map")
    playwright.expect(page.locator("#map .note")).to_contain_text("PCA of 32 items")
    page.locator("#map input[value=select]").check()
    stage = page.locator("#map canvas").bounding_box()

    def drag(*shares: float) -> None:
        left, top, right, bottom = (
            stage["xy"[way]] + share * stage[side]
            for share, (way, side) in zip(shares, [(0, "width"), (1, "height")] * 2, strict=True)
        )
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(right, bottom, steps=3)
        page.mouse.up()

    drag(0.01, 0.01, 0.99, 0.99)  # all of it
    playwright.expect(page.locator("#map .list")).to_have_text("looking …")
    drag(0.01, 0.01, 0.02, 0.02)
    playwright.expect(page.locator("#map .list")).to_have_text("Selected: nothing.")
    with page.expect_response(re.compile("component_server")):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("#map .list").inner_text() == "Selected: nothing."


def test_caption(view: View, own_table: Path, captioning_run: Path) -> None:
    panel = view.tab("Caption")
    view.press(panel, "Describe")
    view.message("a picture is needed: got none")
    view.upload(panel, ".picture", own_table.parent / "red-circle.jpg")
    view.press(panel, "Describe")
    run = open_run(str(captioning_run))
    (caption,) = run.model.describe([own_table.parent / "red-circle.jpg"], run.cfg.decoding)
    words = panel.frame_locator("iframe").locator(".said span")
    words.first.wait_for()
    assert words.all_inner_texts() == [word for word in caption.words if word != "<end>"]
    canvas = panel.frame_locator("iframe").locator("canvas")
    lit = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(level => level)"
    assert not canvas.evaluate(lit)
    words.nth(1).hover()
    assert canvas.evaluate(lit)
    view.shot("caption")


def test_ask(view: View, scene: Scene) -> None:
    panel = view.tab("Ask")
    view.upload(panel, ".picture", scene.image)
    view.upload(panel, ".sound", scene.audio)
    panel.locator(".question textarea").fill("zorgl?")
    view.press(panel, "Ask")
    view.message("the model knows no word of 'zorgl?'")
    panel.locator(".question textarea").fill("what colour is the square?")
    view.press(panel, "Ask")
    picture = panel.locator(".figure img")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    assert len(re.findall(r"\d+%", panel.locator(".answers").inner_text())) == 5
    view.shot("ask")


def test_localise(view: View, scene: Scene) -> None:
    panel = view.tab("Localise")
    view.upload(panel, ".picture", scene.image)
    view.press(panel, "Localise")
    view.message("a sound is needed")
    view.upload(panel, ".sound", scene.audio)
    view.press(panel, "Localise")
    picture = panel.locator(".figure img")
    picture.wait_for()
    assert re.match(r"\d+ % from the left", panel.locator(".place textarea, .place input").first.input_value())
    before = picture.get_attribute("src")
    view.shot("localise")
    slider = panel.locator(".strength input[type=number]")
    slider.fill("0.2")
    slider.press("Enter")
    playwright.expect(picture).not_to_have_attribute("src", before)
    view.shot("localise_weaker")


def test_separate(view: View, talk: Path) -> None:
    panel = view.tab("Separate")
    view.upload(panel, ".video", talk / "talk.mp4")
    view.upload(panel, ".boxes", talk / "boxes.json")
    view.press(panel, "Separate")
    said = panel.locator(".voices textarea")
    playwright.expect(said).to_have_value(re.compile(r"Voices: 2, of 2\.\d+ s each\."))
    playwright.expect(panel.get_by_text("of the mixture's energy")).to_have_count(2)
    names = panel.get_by_text("of the mixture's energy").all_inner_texts()
    assert [re.split(r":", name)[0] for name in names] == ["left", "right"]
    for number in (0, 1):
        heard = view.page.request.get(panel.locator('a[href$=".wav"]').nth(number).get_attribute("href"))
        wave, rate = soundfile.read(io.BytesIO(heard.body()))
        assert (rate, len(wave) > 16000, np.abs(wave).max() > 0.01) == (8000, True, True)
    view.shot("separate")


def test_classify_an_example(view: View) -> None:
    panel = view.tab("Classify")
    with view.page.expect_response(re.compile("/queue/data|/file=")):
        panel.locator(".example").click()
    panel.get_by_text("0:01").first.wait_for()
    view.press(panel, "Classify")
    playwright.expect(panel.locator(".classes")).to_contain_text("%")
    view.shot("classify")


def test_explain(view: View, own_table: Path, tiny_run: Path) -> None:
    view.tab("Explain")
    panel = view.tab(tiny_run.name)
    view.upload(panel, ".picture", own_table.parent / "red-circle.jpg")
    panel.locator(".target textarea").fill("a red circle")
    panel.locator(".method input").click()
    view.page.get_by_role("option", name="grad_cam", exact=True).click()
    view.press(panel, "Explain")
    picture = panel.locator(".figure img")
    picture.wait_for()
    said = panel.locator(".explained textarea, .explained input").first.input_value()
    assert said.startswith("cosine with 'a red circle'")
    assert picture.evaluate("image => image.naturalWidth") > 300
    view.shot("explain")
    panel.locator(".layer textarea").fill("encoder.net.layr")
    view.press(panel, "Explain")
    view.message("encoder.net.layr")
