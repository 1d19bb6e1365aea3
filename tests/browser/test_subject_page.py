"""The page of a subject in a real browser: slices, cut, flicker, checkerboard, change, contours, maps, and ratings that go out and in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cohortex.report.page import write_report
from tests.browser.chromium import CHROMIUM, DRIVER, MISSING, axe_findings, console_errors, requests
from tests.fake_cohort import PAGED, SLICES, STAGES, write_fake_cohort
from tests.unit.test_report_subjects import with_registered

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
T1W, CT = "#image-001_T1w", "#image-001_CT"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("subject")
    work = with_registered(write_fake_cohort(folder / "work", subjects=2))
    return write_report(work, folder / "results", PAGED, STAGES).parent / "subjects" / "sub-001.html"


@pytest.fixture
def opened(open_page, page):
    browser = open_page(page, "return document.readyState === 'complete'")
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    return browser


def one(driver, selector):
    from selenium.webdriver.common.by import By

    return driver.find_element(By.CSS_SELECTOR, selector)


def press(driver, selector: str) -> None:
    """Press a button wherever the page has scrolled to."""
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def attribute(driver, selector: str, name: str) -> str:
    return driver.execute_script("return document.querySelector(arguments[0]).getAttribute(arguments[1])", selector, name)


def style(driver, selector: str, name: str) -> str:
    return driver.execute_script("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name)


def move(driver, selector: str, value: int) -> None:
    driver.execute_script(
        "const range = document.querySelector(arguments[0]); range.value = arguments[1]; range.dispatchEvent(new Event('input'))",
        selector,
        value,
    )


def viewer(stage: int, image: str = "001_T1w") -> str:
    return f"#figure-{image}-{stage}"


def test_the_page_has_no_console_error_and_asks_nothing_of_a_network(opened, page):
    move(opened, f"{T1W} .slice-range", 1)
    press(opened, f"{viewer(3)} [data-mode=change]")
    assert console_errors(opened) == []
    asked = requests(opened)
    assert page.as_uri() in asked and [url for url in asked if not url.startswith(("data:", page.as_uri()))] == []


def test_slices_are_scrolled_by_range_keys_and_wheel_in_all_figures_of_an_image(opened):
    from selenium.webdriver.common.keys import Keys

    layer = f"{viewer(3)} .screen.front .after"
    height = int(attribute(opened, f"{viewer(3)} .screen.front", "data-height"))
    assert attribute(opened, layer, "y") == str(-(SLICES // 2) * height)
    stand = one(opened, f"{viewer(3)} .stand")
    stand.send_keys(Keys.ARROW_UP)
    assert attribute(opened, layer, "y") == str(-3 * height)
    assert attribute(opened, f"{viewer(2)} .screen.front .after", "y") == str(-3 * height), "the figures of an image go together"
    assert one(opened, f"{T1W} .slice output").text == f"4 / {SLICES}"
    assert attribute(opened, f"{viewer(2, '001_CT')} .screen.front .after", "y") == str(-2 * height), "not those of another"
    stand.send_keys(Keys.HOME)
    assert attribute(opened, layer, "y") == "0"
    move(opened, f"{T1W} .slice-range", SLICES - 1)
    assert attribute(opened, layer, "y") == str(-(SLICES - 1) * height)
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: arguments[1], cancelable: true, bubbles: true}))"
    opened.execute_script(wheel, stand, 100)
    assert attribute(opened, layer, "y") == str(-(SLICES - 2) * height)
    opened.execute_script("document.activeElement.blur()")
    opened.execute_script(wheel, stand, 100)
    assert attribute(opened, layer, "y") == str(-(SLICES - 2) * height), "a wheel that goes down the page is left alone"


def test_the_cut_moves_with_the_range_and_with_the_keys(opened):
    from selenium.webdriver.common.keys import Keys

    cut, width = f"{viewer(3)} .screen.front .cut", int(attribute(opened, f"{viewer(3)} .screen.front", "data-width"))
    assert float(attribute(opened, cut, "x")) == width / 2
    move(opened, f"{viewer(3)} .wipe-range", 25)
    assert float(attribute(opened, cut, "x")) == width / 4 and float(attribute(opened, cut, "width")) == 3 * width / 4
    one(opened, f"{viewer(3)} .wipe-range").send_keys(Keys.ARROW_RIGHT)
    assert float(attribute(opened, cut, "x")) == pytest.approx(0.26 * width)


def test_flicker_swaps_before_and_after_and_stops(opened):
    from selenium.webdriver.support.ui import WebDriverWait

    button = one(opened, f"{viewer(3)} [data-mode=flicker]")
    press(opened, f"{viewer(3)} [data-mode=flicker]")
    assert button.get_attribute("aria-pressed") == "true"
    assert float(attribute(opened, f"{viewer(3)} .screen.front .cut", "x")) == 0, "the whole of the later picture"
    WebDriverWait(opened, 5, 0.05).until(lambda driver: style(driver, f"{viewer(3)} .late", "visibility") == "hidden")
    assert one(opened, f"{viewer(3)} .moment").text == "before"
    WebDriverWait(opened, 5, 0.05).until(lambda driver: style(driver, f"{viewer(3)} .late", "visibility") == "visible")
    press(opened, f"{viewer(3)} [data-mode=flicker]")
    assert attribute(opened, viewer(3), "data-mode") == "slider"


def test_where_motion_is_to_be_reduced_each_press_swaps_once(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    try:
        seen = []
        for _ in range(3):
            press(opened, f"{viewer(3)} [data-mode=flicker]")
            seen.append(one(opened, f"{viewer(3)} .moment").text)
        assert seen == ["before", "after", "before"]
        assert (
            opened.execute_async_script(
                "const done = arguments[1], text = () => document.querySelector(arguments[0]).textContent;"
                "setTimeout(() => done(text()), 900)",
                f"{viewer(3)} .moment",
            )
            == "before"
        ), "nothing moves by itself"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_registered_image_is_seen_through_a_checkerboard(opened):
    (figure,) = opened.execute_script(
        "return [...document.querySelectorAll('.viewer')].filter(one => one.querySelector('[data-mode=board]')).map(one => one.id)"
    )
    press(opened, f"#{figure} [data-mode=board]")
    assert re.fullmatch(r"url\(#board-001_CT-\d+-slices\)", attribute(opened, f"#{figure} .front .late", "clip-path"))
    press(opened, f"#{figure} [data-mode=slider]")
    assert attribute(opened, f"#{figure} .front .late", "clip-path") is None


def test_change_contours_and_maps_are_turned_on_and_off(opened):
    assert style(opened, f"{viewer(3)} .front .changed", "display") == "none"
    press(opened, f"{viewer(3)} [data-mode=change]")
    assert style(opened, f"{viewer(3)} .front .changed", "display") == "inline"
    assert "+" in one(opened, f"{viewer(3)} .scale.front").text
    shown = {number: style(opened, f"{viewer(number)} .front .contours", "display") for number in (3, 5)}
    assert shown == {3: "none", 5: "inline"}, "contours are on where it was segmented"
    for number, now in ((3, "inline"), (5, "none")):
        press(opened, f"{viewer(number)} .contours-button")
        assert style(opened, f"{viewer(number)} .front .contours", "display") == now
    move(opened, f"{viewer(5)} .veil-range", 20)
    assert attribute(opened, f"{viewer(5)} .front .map", "opacity") == "0.2"


def test_a_plane_is_chosen_for_all_figures_of_an_image(opened):
    press(opened, f"{T1W} .plane-button[data-plane=coronal]")
    fronts = "return [...document.querySelectorAll(arguments[0] + ' .screen.front')].map(screen => screen.dataset.plane)"
    assert set(opened.execute_script(fronts, T1W)) == {"coronal"}
    assert set(opened.execute_script(fronts, CT)) == {"slices"}


def test_ratings_are_kept_handed_out_and_read_in_again(opened, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    radio = "[data-image='{}'] input[value={}]"
    one(opened, radio.format("001_T1w", "reject")).send_keys(Keys.SPACE)
    one(opened, "[data-image='001_T1w'] .rating-note").send_keys("@moved", Keys.TAB)
    one(opened, radio.format("001_CT", "accept")).send_keys(Keys.SPACE)
    one(opened, "#rater").send_keys("anna b", Keys.TAB)
    opened.refresh()
    assert opened.execute_script("return document.querySelector(arguments[0]).checked", radio.format("001_T1w", "reject"))
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    press(opened, "#hand-out")
    table = tmp_path / "ratings.tsv"
    WebDriverWait(opened, 20).until(lambda _: table.is_file() and table.stat().st_size)
    lines = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    assert [cells[:4] for cells in lines] == [
        ["image", "rating", "note", "rater"],
        ["001_CT", "accept", "", "anna b"],
        ["001_T1w", "reject", "'@moved", "anna b"],
    ]
    opened.execute_script("localStorage.clear()")
    opened.refresh()
    assert opened.execute_script("return document.querySelectorAll('.rating input:checked').length") == 0
    with table.open("a", encoding="utf-8") as file:
        file.write("002_CT\tperhaps\t\tanna b\t\n")
    one(opened, "#read-in").send_keys(str(table))
    WebDriverWait(opened, 20).until(lambda driver: "read in" in driver.find_element(By.ID, "rated").text)
    assert one(opened, "#rated").text == "2 read in, not understood: line 4 · 2 ratings in this browser"
    one(opened, "#rater").send_keys("anna b", Keys.TAB)
    assert opened.execute_script("return document.querySelector(arguments[0]).checked", radio.format("001_T1w", "reject"))
    assert one(opened, "[data-image='001_T1w'] .rating-note").get_attribute("value") == "@moved"
    press(opened, "[data-image='001_T1w'] .rating-clear")
    assert opened.execute_script("return ratings.rows().map(row => row.image)") == ["001_CT"]
    assert console_errors(opened) == []


def test_a_browser_that_keeps_nothing_says_so(opened):
    opened.execute_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    press(opened, "[data-image='001_CT'] input[value=unsure] + span")
    assert "this browser keeps nothing: download before you leave" in one(opened, "#rated").text
    assert opened.execute_script("return ratings.rows()[0].rating") == "unsure"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1300, "dark")])
def test_the_page_itself_never_scrolls_sideways_and_has_words_for_all_it_shows(opened, width, scheme):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        nameless = """return [...document.querySelectorAll('input, button, .screen, .stand, select')].filter(one => {
            const labels = [...(one.labels || [])].map(label => label.textContent)
            return ![one.getAttribute('aria-label') || '', one.textContent, ...labels].join('').trim()
        }).map(one => one.outerHTML)"""
        assert opened.execute_script(nameless) == []
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, scheme):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        for word in ("accept", "reject"):
            press(opened, f"[data-image='001_T1w'] input[value={word}]")
        press(opened, f"{viewer(3)} [data-mode=change]")
        found = axe_findings(opened)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")] == []
