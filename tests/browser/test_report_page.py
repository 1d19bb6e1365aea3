"""The report opens in a real browser: nothing is asked of a network, nothing is refused, the table works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cohortex.report.page import write_report
from cohortex.tables import read_table
from tests.browser.chromium import CHROMIUM, DRIVER, MISSING, READY, axe_findings, console_errors, requests
from tests.fake_cohort import CONFIG, PAGED, STAGES, write_fake_cohort
from tests.moved_cohort import write_second_report
from tests.unit.test_report_evaluation import write_classified

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
VISIBLE = """return [...arguments[0].querySelectorAll('.view')].filter(view => view.offsetParent)
    .map(view => view.className.match(/view-([a-z]+)/)[1])"""

SPLIT = READY + " && document.querySelector('#groups-charts').getAttribute('aria-busy') === 'false'"
"""Whether the report is there and distributions by group are drawn, too."""

OUTSIDE = """return [...document.querySelectorAll('.plot')].flatMap(plot => {
    const field = plot.getBoundingClientRect()
    return [...plot.querySelectorAll('text, polyline, polygon, circle')].filter(one => {
        const box = one.getBoundingClientRect()
        return box.left < field.left - 2 || box.right > field.right + 2 || box.top < field.top - 2 || box.bottom > field.bottom + 2
    }).map(one => one.outerHTML)
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_fake_cohort(folder / "work", systemic=True)
    return write_report(folder / "work", folder / "results", PAGED, STAGES)


@pytest.fixture
def opened(open_page, page):
    return open_page(page, READY)


def cells(driver, column: int) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('#table tbody tr')].map(row => row.children[arguments[0]].textContent)", column
    )


def heads(driver) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll('#table thead button')].map(button => button.textContent)")


def choose(driver, selector: str, value: str, ready: str = READY) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver.execute_script(
        "const select = document.querySelector(arguments[0]); select.value = arguments[1]; select.dispatchEvent(new Event('change'))",
        selector,
        value,
    )
    WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(ready))


def test_the_page_has_no_console_error_and_asks_nothing_of_a_network(opened, page):
    assert console_errors(opened) == []
    asked = requests(opened)
    assert [url for url in asked if not url.startswith(("data:", page.as_uri()))] == []
    assert page.as_uri() in asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, scheme):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        found = axe_findings(opened)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")] == []


def test_markup_in_a_reason_is_shown_as_text(opened):
    assert opened.title == "Demo cohort · Cohortex report"
    found = opened.execute_script(
        "return document.querySelector('.lost .reason').textContent + document.querySelector('#table').textContent"
    )
    assert found.count("<script>document.title='broken into'</script>") >= 2
    assert opened.execute_script("return document.querySelectorAll('.lost script, #table script').length") == 0


def test_what_was_set_aside_comes_first_with_the_systemic_batch_on_top(opened):
    order = opened.execute_script("return [...document.querySelectorAll('main > section')].map(section => section.id)")
    assert order == ["verdict", "odd", "glance", "images", "groups", "stages", "times", "models", "how"]
    assert "b0001" in opened.execute_script("return document.querySelector('.systemic').textContent")
    first = opened.execute_script("return [...document.querySelectorAll('.lost tbody tr')].map(row => row.children[1].textContent)")
    assert set(first[:5]) == {"005_CT", "005_T1w", "006_CT", "007_CT", "008_CT"}
    assert set(first[5:]) == {"002_CT", "003_T1w"}


def test_the_table_is_sorted_by_any_column_both_ways(opened):
    opened.execute_script("document.querySelectorAll('#table thead button')[1].click()")
    assert cells(opened, 1) == sorted(cells(opened, 1))
    opened.execute_script("document.querySelectorAll('#table thead button')[1].click()")
    assert cells(opened, 1) == sorted(cells(opened, 1), reverse=True)
    choose(opened, "#by-stage", "denoise")
    column = next(index for index, name in enumerate(heads(opened)) if name == "PSNR (dB)")
    opened.execute_script("document.querySelectorAll('#table thead button')[arguments[0]].click()", column)
    values = [float(text) for text in cells(opened, column) if text]
    assert len(values) > 5
    assert values == sorted(values)
    assert opened.execute_script("return document.querySelector('#table [aria-sort]').textContent") == "PSNR (dB)"
    assert opened.execute_script("return document.activeElement.textContent") == "PSNR (dB)"


def test_the_table_is_filtered_by_words_status_and_modality(opened):
    from selenium.webdriver.common.by import By

    assert len(cells(opened, 1)) == 16
    opened.find_element(By.ID, "search").send_keys("missing-slices 002")
    assert cells(opened, 1) == ["002_CT"]
    assert opened.find_element(By.ID, "shown").text == "1 of 16 images"
    opened.find_element(By.ID, "search").clear()
    opened.execute_script("document.querySelector('#search').dispatchEvent(new Event('input'))")
    choose(opened, "#by-status", "lost")
    assert len(cells(opened, 1)) == 7
    choose(opened, "#by-modality", "T1w")
    assert set(cells(opened, 1)) == {"003_T1w", "005_T1w"}


def test_rows_are_rated_beside_their_image_and_lead_to_the_page_of_their_subject(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("localStorage.clear()")
    assert not opened.find_element(By.ID, "hand-out").is_displayed()
    opened.find_element(By.ID, "search").send_keys("001_T1w")
    opened.find_element(By.ID, "rate-rows").send_keys(Keys.ENTER)
    opened.find_element(By.ID, "rater").send_keys("anna", Keys.TAB)
    choice, note = opened.find_element(By.CSS_SELECTOR, ".row-rating select"), ".row-rating input"
    assert choice.get_attribute("aria-label") == "Rating of 001_T1w"
    opened.execute_script("arguments[0].value = 'reject'; arguments[0].dispatchEvent(new Event('change'))", choice)
    opened.find_element(By.CSS_SELECTOR, note).send_keys("=moved  much", Keys.TAB)
    header, row = opened.execute_script("return ratings.text()").splitlines()
    assert header == "image\trating\tnote\trater\tdate"
    assert re.fullmatch(r"001_T1w\treject\t'=moved much\tanna\t20[-0-9]+T[0-9:]+Z", row)
    assert "1 rating in this browser" in opened.find_element(By.ID, "rated").text
    link = opened.find_element(By.CSS_SELECTOR, "#table tbody th a:not(.thumb)")
    assert link.get_attribute("href").endswith("/report/subjects/sub-001.html#image-001_T1w")
    link.send_keys(Keys.ENTER)
    checked = opened.execute_script("return document.querySelector('[data-image=\"001_T1w\"] input:checked').value")
    assert checked == "reject", "one browser, one set of ratings"
    opened.execute_script("localStorage.clear()")


def test_view_and_contours_are_chosen_and_pictures_enlarged_by_keyboard(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    mosaic = opened.find_element(By.CSS_SELECTOR, "#stage-denoise .mosaic")
    assert set(opened.execute_script(VISIBLE, mosaic)) == {"axial"}
    mosaic.find_element(By.CSS_SELECTOR, "[data-view=coronal].view-button").send_keys(Keys.ENTER)
    assert set(opened.execute_script(VISIBLE, mosaic)) == {"coronal"}
    before = opened.execute_script("return getComputedStyle(arguments[0].querySelector('.contour')).display", mosaic)
    mosaic.find_element(By.CSS_SELECTOR, ".contour-button").send_keys(Keys.ENTER)
    assert (before, opened.execute_script("return getComputedStyle(arguments[0].querySelector('.contour')).display", mosaic)) == (
        "none",
        "inline",
    )
    mosaic.find_element(By.CSS_SELECTOR, ".enlarge").send_keys(Keys.ENTER)
    dialog = opened.find_element(By.ID, "large")
    assert dialog.is_displayed()
    assert len(dialog.find_elements(By.CSS_SELECTOR, ".tile")) == 2
    dialog.find_element(By.ID, "blink").send_keys(Keys.ENTER)
    assert dialog.find_element(By.ID, "blink").get_attribute("aria-pressed") == "true"
    dialog.find_element(By.ID, "blink").send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_every_picture_is_drawn_and_has_words(opened):
    broken = opened.execute_script(
        "return [...document.querySelectorAll('.tile use')].filter(use => !document.querySelector(use.getAttribute('href'))).length"
    )
    assert broken == 0
    assert opened.execute_script("return document.querySelectorAll('.tile:not([aria-label])').length") == 0
    assert opened.execute_script("return document.querySelectorAll('.tile').length") > 100


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1300, "dark")])
def test_the_page_itself_never_scrolls_sideways(opened, width, scheme):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        dark = opened.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_figures_of_a_classifier_are_drawn_in_their_fields_at_any_width(browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    work = write_classified(tmp_path / "work", 3)
    page = write_report(work, tmp_path / "results", CONFIG, STAGES)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(READY))
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    for width in (360, 1300):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        )
        try:
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(OUTSIDE) == []
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == 10
    strokes = browser.execute_script("return [...document.querySelectorAll('.plot polyline')].map(line => getComputedStyle(line).stroke)")
    assert "none" not in strokes and len(set(strokes)) == 4, "three classes and what they are held against"
    assert browser.execute_script("return document.querySelector('#verdict .systemic').textContent").startswith("Classification:")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Path:
    return write_second_report(tmp_path_factory.mktemp("grouped"))


@pytest.fixture
def split(open_page, grouped):
    return open_page(grouped, SPLIT)


def drawn(driver) -> list[str]:
    """Return what the charts of groups show, in the words for those who do not see them."""
    return driver.execute_script("return [...document.querySelectorAll('#groups-charts svg title')].map(title => title.textContent)")


def test_distributions_are_split_by_the_chosen_column_with_the_figures_of_the_table(split, grouped):
    choose(split, "#groups-modality", "T1w", SPLIT)
    choose(split, "#groups-stage", "regseg", SPLIT)
    choose(split, "#groups-by", "sex", SPLIT)
    chart = next(words for words in drawn(split) if words.startswith("seg: volume grey (ml)"))
    people = {row["subject"]: row["sex"] for row in read_table(grouped.parents[2] / "work" / "cohort" / "participants.tsv")}
    rows = read_table(grouped.parents[1] / "tables" / "regseg.tsv")
    sizes = sorted(
        float(row["volume_grey_ml"])
        for row in rows
        if row["image"].endswith("T1w+seg") and people[row["subject"]] == "f" and row["volume_grey_ml"]
    )
    count, median = re.search(r"f: (\d+) images, median ([\d.]+)", chart).groups()
    assert int(count) == len(sizes)
    assert float(median) == pytest.approx(sizes[len(sizes) // 2], rel=0.02)
    assert split.find_element("id", "groups-shown").text.endswith("T1w images by sex, harmonised ones below the measured")


def test_harmonised_values_stand_beside_the_measured_ones_until_they_are_switched_off(split):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    assert split.find_element(By.ID, "groups-stage").get_attribute("value") == "regseg", "what was harmonised is shown first"
    chart = next(words for words in drawn(split) if words.startswith("seg: volume grey"))
    assert re.findall(r"(\w+): \d+ images", chart) == ["alpha", "harmonised", "beta", "harmonised", "gamma", "harmonised"]
    medians = [float(value) for value in re.findall(r"median ([\d.]+)", chart)]
    assert max(medians[1::2]) - min(medians[1::2]) < 0.4 * (max(medians[::2]) - min(medians[::2]))
    split.find_element(By.ID, "groups-harmonised").send_keys(" ")
    WebDriverWait(split, 60).until(lambda driver: driver.execute_script(SPLIT))
    assert all("harmonised" not in words for words in drawn(split))
    choose(split, "#groups-stage", "denoise", SPLIT)
    assert not split.find_element(By.ID, "groups-harmonised-label").is_displayed()


def test_the_second_report_is_silent_accessible_and_opens_with_what_changed(split, grouped):
    assert console_errors(split) == []
    assert [url for url in requests(split) if not url.startswith(("data:", grouped.as_uri()))] == []
    assert [each["id"] for each in axe_findings(split) if each["impact"] in ("serious", "critical")] == []
    since = split.execute_script("return document.querySelector('.since').textContent")
    assert "What changed since the run of 2026-11-01 08:00 (UTC)" in since and "<b>noisy</b>" in since
    notices = split.execute_script("return [...document.querySelectorAll('.notice strong')].map(one => one.textContent)")
    assert "Scanner Ulm · gamma:" in notices and "Over time:" in notices
    split.find_element("link text", "See there.").click()
    assert split.execute_script("return location.hash") == "#days"


def test_small_pictures_lead_to_the_large_ones_and_are_drawn_with_their_rows_only(opened):
    thumbs = opened.execute_script("return [...document.querySelectorAll('.thumb')].map(one => one.getAttribute('href'))")
    assert len(thumbs) == 16 and opened.execute_script("return document.querySelectorAll('.thumb use').length") == 16
    lost = "return arguments[0].filter(place => !document.getElementById(place.slice(1)))"
    assert opened.execute_script(lost, thumbs) == []
    assert opened.execute_script("return document.querySelector('.thumb').getAttribute('aria-label')").startswith("Pictures of 00")
    opened.find_element("css selector", "#search").send_keys("no such image")
    assert opened.execute_script("return document.querySelectorAll('.thumb').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_nothing_is_wider_than_the_sheet_and_the_choice_is_named(split, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    split.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    split.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 794, "height": 1123, "deviceScaleFactor": 1, "mobile": False})
    try:
        assert split.execute_script("return document.documentElement.scrollWidth") <= 794
        assert split.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert split.find_element("id", "groups-shown").is_displayed() and len(drawn(split)) > 3
        assert not split.find_element("id", "groups-by").is_displayed()
    finally:
        split.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        split.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
