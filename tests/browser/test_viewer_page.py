"""The viewer of a subject in a real browser: reduced volumes from a file, whole ones by `cohortex view`, sides, layers, values, keys."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

import numpy as np
import pytest

from cohortex.report import viewer_page
from cohortex.report.page import write_report
from cohortex.view import make_server
from tests.browser.chromium import CHROMIUM, DRIVER, MISSING, WEBGL, axe_findings, console_errors, driver, requests
from tests.exported_heads import OBLIQUE, brain, with_volumes
from tests.fake_cohort import PAGED, STAGES, write_fake_cohort

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
SHOWN = """const stage = document.querySelector('#stage');
    return document.readyState === 'complete' && !!stage.dataset.shown && !stage.hasAttribute('aria-busy')"""
PAGE = Path("report", "subjects", "sub-001.view.html")
FULL = "99x117x95"
LIMIT = 400_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driver(tmp_path_factory.mktemp("profile"), WEBGL) as browser:
        # what is drawn without a graphics card takes its time
        browser.set_window_size(860, 640)
        yield browser


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Return the results of a subject with a head of 2 mm on an oblique grid."""
    folder = tmp_path_factory.mktemp("viewer")
    work = with_volumes(write_fake_cohort(folder / "work", 1, pictures=False), folder / "results", brain(), OBLIQUE, maps=True)
    with pytest.MonkeyPatch.context() as patch:
        # so that the volumes must be made smaller
        patch.setattr(viewer_page, "LIMIT", LIMIT)
        write_report(work, folder / "results", PAGED, STAGES)
    return folder / "results"


@pytest.fixture
def opened(open_page, results):
    return open_page(results / PAGE, SHOWN)


@pytest.fixture
def served(browser, results):
    """Give a browser in which the page was opened by the server of the results, and the address of these."""
    from selenium.webdriver.support.ui import WebDriverWait

    server, address = make_server(results, 0, PAGE.as_posix())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(SHOWN))
    yield browser, address.removesuffix(PAGE.as_posix())
    browser.get("about:blank")
    server.shutdown()
    server.server_close()
    thread.join()


def picture(browser) -> np.ndarray:
    """Return what is drawn, (rows, columns, 3)."""
    from PIL import Image
    from selenium.webdriver.common.by import By

    png = browser.find_element(By.ID, "stage").screenshot_as_base64
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)


def press(browser, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def move(browser, selector: str, value: float) -> None:
    browser.execute_script(
        "const range = document.querySelector(arguments[0]); range.value = arguments[1]; range.dispatchEvent(new Event('input'))",
        selector,
        value,
    )


def place(browser) -> np.ndarray:
    return np.array([float(part) for part in browser.execute_script("return document.querySelector('#stage').dataset.mm").split()])


def told(browser) -> dict[str, str]:
    """Return what stands at the crosshair."""
    return dict(
        browser.execute_script("return [...document.querySelectorAll('#where dt')].map(dt => [dt.textContent, dt.nextSibling.textContent])")
    )


def go_to(browser, mm) -> None:
    for axis, value in enumerate(mm):
        move(browser, f".mm-range[data-axis='{axis}']", float(value))


def voxel(index) -> np.ndarray:
    return (OBLIQUE @ [*index, 1])[:3]


MARKED = voxel((65.5, 74.5, 49.5))
"""The middle of the mark in `tests.exported_heads.brain`."""


def reds(image: np.ndarray) -> np.ndarray:
    """Return the columns and rows of pixels in the colour of label 6."""
    return np.argwhere((image[..., 0] > 200) & (image[..., 1] < 120) & (image[..., 2] < 110))[:, ::-1]


def test_from_a_file_the_reduced_volume_is_drawn_silently_and_without_a_network(opened, results):
    image = picture(opened)
    height, width = image.shape[:2]
    corners = [image[: height // 2, : width // 2], image[: height // 2, width // 2 :], image[height // 2 :, : width // 2]]
    corners.append(image[height // 2 :, width // 2 :])
    assert all((part.max(axis=2) > 60).mean() > 0.05 for part in corners), "three planes and the view in space"
    assert opened.execute_script("return document.querySelector('#stage').dataset.full") == "false"
    words = opened.execute_script("return document.querySelector('#what').textContent")
    assert "reduced copy" in words and "99 × 117 × 95 voxels of 2 × 2 × 2 mm" in words and "(simulated)" in words
    press(opened, "[data-view=render]")
    press(opened, "[data-image='001_CT']")
    assert console_errors(opened) == []
    asked = requests(opened)
    assert (results / "report" / "niivue.js").as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", results.as_uri()))] == []


def test_by_the_server_the_whole_volume_is_drawn(served, results):
    browser, address = served
    assert browser.execute_script("const {full, dims} = document.querySelector('#stage').dataset; return [full, dims]") == ["true", FULL]
    assert "the whole volume, 99 × 117 × 95" in browser.execute_script("return document.querySelector('#what').textContent")
    assert (picture(browser).max(axis=2) > 60).mean() > 0.1
    assert console_errors(browser) == []
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert address + "sub-001/anat/001_T1w.nii.gz" in asked and all(url.startswith(address) for url in asked)


@pytest.mark.parametrize("whole", [False, True])
def test_places_values_and_labels_are_those_of_the_volume(request, whole):
    browser = request.getfixturevalue("served")[0] if whole else request.getfixturevalue("opened")
    go_to(browser, MARKED)
    assert np.abs(place(browser) - MARKED).max() < 2.1
    said = told(browser)
    assert float(said["value"]) == pytest.approx(3.0, abs=0.02) and said["labels"] == "lesion"
    assert said["place"].startswith(f"R {place(browser)[0]:.1f}") and said["place"].endswith("mm")
    press(browser, "[data-image='001_CT']")
    wait(
        browser,
        "document.querySelector('#stage').dataset.shown === '001_CT' && !document.querySelector('#stage').hasAttribute('aria-busy')",
    )
    go_to(browser, MARKED)
    assert told(browser)["value"].endswith(" HU") and float(told(browser)["value"].split()[0]) == pytest.approx(90, abs=3)


def wait(browser, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, 0.05).until(lambda driver: driver.execute_script(f"return {condition}"))


def test_the_right_side_is_on_the_left_of_the_picture_the_front_up_and_the_face_to_the_left(opened):
    """The mark is on the right, in front of the middle and above it."""
    go_to(opened, MARKED)
    move(opened, ".layer-range", 100)
    for view in ("axial", "coronal", "sagittal"):
        press(opened, f"[data-view={view}]")
        image = picture(opened)
        columns, rows = reds(image).mean(axis=0)
        across, down = np.argwhere(image.max(axis=2) > 60)[:, ::-1].mean(axis=0)
        assert columns < across and rows < down, view


def test_opacity_of_labels_the_window_and_the_cut_change_the_picture(opened):
    press(opened, "[data-view=axial]")
    seen = [picture(opened)]
    for selector, value in ((".layer-range", 0), (".layer-range", 100)):
        move(opened, selector, value)
        seen.append(picture(opened))
    colourful = [np.ptp(each, axis=2).mean() for each in seen]
    assert colourful[1] < colourful[0] < colourful[2] and colourful[1] < 1
    move(opened, ".layer-range", 0)
    go_to(opened, MARKED)
    without = picture(opened)
    move(opened, "[data-layer='001_T1w+uncertainty']", 100)
    assert np.ptp(picture(opened), axis=2).max(axis=None) > 100 and np.abs(picture(opened) - without).mean() > 0.1, "the map"
    assert float(told(opened)["uncertainty of the labels"]) == 1
    move(opened, "[data-layer='001_T1w+uncertainty']", 0)
    go_to(opened, [0, 0, 0])
    seen[1] = picture(opened)
    opened.execute_script("const high = document.querySelector('#high'); high.value = 9; high.dispatchEvent(new Event('change'))")
    assert picture(opened).mean() < 0.7 * seen[1].mean(), "a white that is higher makes it darker"
    press(opened, "#presets button")
    assert np.abs(picture(opened) - seen[1]).mean() < 1
    press(opened, "[data-view=render]")
    before = picture(opened)
    move(opened, "#cut", 50)
    assert np.abs(picture(opened) - before).mean() > 2
    move(opened, "#cut", 0)
    move(opened, "#turn", 90)
    assert np.abs(picture(opened) - before).mean() > 2


def test_the_keys_move_the_crosshair_as_the_pictures_lie_and_turn_the_view_in_space(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    stage = opened.find_element(By.ID, "stage")
    for key, axis, way in (
        (Keys.ARROW_LEFT, 0, 1),
        (Keys.ARROW_RIGHT, 0, -1),
        (Keys.ARROW_UP, 1, 1),
        (Keys.ARROW_DOWN, 1, -1),
        (Keys.PAGE_UP, 2, 1),
        (Keys.PAGE_DOWN, 2, -1),
    ):
        before = place(opened)
        stage.send_keys(key)
        moved = place(opened) - before
        assert np.argmax(np.abs(moved)) == axis and np.sign(moved[axis]) == way
    press(opened, "[data-view=render]")
    before, at = picture(opened), place(opened)
    stage.send_keys(Keys.ARROW_LEFT * 5)
    assert np.abs(picture(opened) - before).mean() > 1 and np.array_equal(place(opened), at)
    slider = opened.find_element(By.CSS_SELECTOR, ".mm-range[data-axis='2']")
    slider.send_keys(Keys.HOME)
    assert place(opened)[2] < at[2]


def test_a_click_moves_the_crosshair_and_only_after_it_the_wheel_goes_through_slices(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.by import By

    press(opened, "[data-view=axial]")
    opened.execute_script("window.scrollTo(0, 0)")
    stage = opened.find_element(By.ID, "stage")
    first = place(opened)
    turned = ScrollOrigin.from_element(stage)
    ActionChains(opened).scroll_from_origin(turned, 0, 100).perform()
    wait(opened, "window.scrollY > 0")
    assert np.array_equal(place(opened), first), "the page went down, and nothing else"
    opened.execute_script("window.scrollTo(0, 0)")
    ActionChains(opened).move_to_element_with_offset(stage, -40, 30).click().perform()
    clicked = place(opened)
    assert clicked[0] - first[0] > 5 and abs(clicked[2] - first[2]) < 4, "to the left of the picture is to the patient's right"
    ActionChains(opened).scroll_from_origin(turned, 0, 100).perform()
    assert abs(place(opened)[2] - clicked[2]) > 1


def test_a_browser_without_webgl_2_says_so(browser, results):
    hidden = "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hidden})["identifier"]
    try:
        browser.get("about:blank")
        browser.get((results / PAGE).as_uri())
        assert "does not draw in three dimensions" in browser.execute_script("return document.querySelector('#cannot').textContent")
        assert browser.execute_script("return document.querySelector('#desk').hidden")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})


def test_a_page_without_its_files_says_so(browser, results, tmp_path):
    alone = tmp_path / "alone.html"
    alone.write_text((results / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    browser.get(alone.as_uri())
    assert "copy the whole folder report" in browser.execute_script("return document.querySelector('#cannot').textContent")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1300, "dark")])
def test_the_page_never_scrolls_sideways_and_axe_finds_nothing_serious(opened, width, scheme):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        found = axe_findings(opened)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")] == []
