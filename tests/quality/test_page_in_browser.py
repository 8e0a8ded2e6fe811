"""The report page in a real browser, from disk and without a network. Skipped where there is no Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dit_accel.quality import QualityReport

from .conftest import FPS, NUM_FRAMES, PROMPTS

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page in")
TIMES = "[0, 1, 2].map((n) => document.getElementById(`pane-${n}`).currentTime)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # No sandbox: tests run as root in containers, and the page is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(report: QualityReport, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    report.to_html(path)
    return path.as_uri()


class Visit:
    """The page opened once; ``problems`` holds console errors and requests that leave the page."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.problems: list[str] = []
        self.page = browser.new_context(**how).new_page()
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._note)
        self._address = address
        self.page.goto(address)
        self.wait("document.getElementById('pane-0').readyState >= 2")

    def _note(self, request: Any) -> None:
        if request.url != self._address and not request.url.startswith(("blob:", "data:")):
            self.problems.append(request.url)

    def wait(self, condition: str) -> None:
        """Until it holds. Asked from outside: the page's policy forbids to evaluate text inside."""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never true: {condition}")

    def times(self) -> list[float]:
        found: list[float] = self.page.evaluate(TIMES)
        return found

    def brightness(self) -> float:
        """Of the middle of the first pane's picture, 0 to 255."""
        return float(
            self.page.evaluate(
                """() => {
                    const pane = document.getElementById("pane-0"), canvas = document.createElement("canvas");
                    canvas.width = pane.videoWidth; canvas.height = pane.videoHeight;
                    const context = canvas.getContext("2d");
                    context.drawImage(pane, 0, 0);
                    return context.getImageData(pane.videoWidth / 2, pane.videoHeight / 2, 1, 1).data[0];
                }"""
            )
        )


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    visit.page.context.close()
    assert visit.problems == []


def test_the_slider_moves_all_videos_to_its_frame(visit: Visit) -> None:
    levels = []
    for frame in range(NUM_FRAMES):
        visit.page.fill("#frame", str(frame))
        visit.wait("[0, 1, 2].every((n) => !document.getElementById(`pane-${n}`).seeking)")
        assert visit.times() == pytest.approx([(frame + 0.5) / FPS] * 3, abs=1e-3)
        assert visit.page.inner_text("#position") == f"{frame + 1} / {NUM_FRAMES}"
        levels.append(visit.brightness())
    steps = [later - earlier for earlier, later in pairwise(levels)]
    assert steps == pytest.approx([25.5] * (NUM_FRAMES - 1), abs=4)  # brightness grows by a tenth a frame
    visit.page.click("#back")
    assert visit.page.inner_text("#position") == f"{NUM_FRAMES - 1} / {NUM_FRAMES}"
    assert f"psnr {29 + 0.1 * (NUM_FRAMES - 2):.2f} here, 29.00 in all" in visit.page.inner_text("#values")


def test_videos_play_together_and_pause(visit: Visit) -> None:
    visit.page.click("#play")
    visit.wait(f"{TIMES}.every((time) => time > {1.5 / FPS})")
    assert max(visit.times()) - min(visit.times()) < 1 / FPS
    visit.page.click("#play")
    assert visit.page.inner_text("#play") == "Play"
    before = visit.times()
    visit.page.wait_for_timeout(300)
    assert visit.times() == before


def test_another_choice_shows_other_videos(visit: Visit) -> None:
    assert visit.page.locator("#video option").all_inner_texts()[0] == f"1. psnr 29.00: {PROMPTS[1]}, seed 7"
    sources = "[0, 1, 2].map((n) => document.getElementById(`pane-${n}`).src)"
    first = visit.page.evaluate(sources)
    visit.page.select_option("#row", "slow")
    visit.wait(f"{sources}[1] !== {first[1]!r} && document.getElementById('pane-1').readyState >= 2")
    assert "40.00 in all" in visit.page.inner_text("#values")
    assert visit.page.evaluate(sources)[0] != first[0]  # the worst of this one is the other prompt
    visit.page.select_option("#video", "1")
    visit.wait(f"{sources}[0] === {first[0]!r}")


def luminance(colour: str) -> float:
    """Of "rgb(1, 2, 3)", 0 to 255."""
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_light_and_dark_differ_and_both_are_legible(browser: Any, address: str) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, address, color_scheme=scheme)
        look = "({color, backgroundColor}) => [color, backgroundColor]"
        looks[scheme] = visit.page.evaluate(f"({look})(getComputedStyle(document.body))")
        chart = visit.page.evaluate("getComputedStyle(document.querySelector('#front svg text')).fill")
        assert chart == looks[scheme][0], "charts are drawn in the ink of the page"
        assert visit.problems == []
        visit.page.context.close()
    (light_ink, light_paper), (dark_ink, dark_paper) = (map(luminance, looks[scheme]) for scheme in looks)
    assert light_paper - light_ink > 150 and dark_ink - dark_paper > 150


def test_on_a_phone_nothing_sticks_out(browser: Any, address: str) -> None:
    visit = Visit(browser, address, viewport={"width": 390, "height": 844}, device_scale_factor=2)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    for pane in visit.page.locator("video").all():
        assert pane.bounding_box()["width"] > 150
    visit.page.context.close()
    assert visit.problems == []
