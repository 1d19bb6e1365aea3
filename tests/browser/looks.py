"""How pages look: screenshots that a person has looked at, and how far a new one is from them.

    python -m tests.browser.looks [FOLDER]

takes all of them anew into a folder (default: ``tests/browser/looks``). Look at each before you commit it.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cohortex.report.page import write_report
from tests.browser.chromium import READY, driver
from tests.fake_cohort import PAGED, STAGES, write_fake_cohort
from tests.moved_cohort import write_second_report
from tests.unit.test_report_subjects import with_registered

FOLDER = Path(__file__).with_name("looks")
SIZE = (1300, 900)
"""Of the window, in CSS pixels."""
KEPT = 2
"""A kept screenshot is so many times smaller along each side."""
CELL = 10
"""Pixels of a kept screenshot along each side that are compared as one: letters of another font differ, their mean hardly does."""
FAR = 20.0
"""Grey values (of 255) from which a cell looks different."""


@dataclass(frozen=True)
class Look:
    """A page, where it is scrolled to, and how it is shown."""

    page: str
    at: str = ""
    scheme: str = "light"
    media: str = "screen"


REPORT, SUBJECT = "one/results/report/index.html", "one/results/report/subjects/sub-001.html"
SECOND = "second/results/report/index.html"
LOOKS = {
    "report": Look(REPORT),
    "report-dark": Look(REPORT, scheme="dark"),
    "report-print": Look(REPORT, media="print"),
    "report-odd": Look(REPORT, "#odd"),
    "report-images": Look(REPORT, "#images"),
    "report-stage": Look(REPORT, "#stage-denoise"),
    "second": Look(SECOND),
    "second-odd": Look(SECOND, "#odd"),
    "second-groups": Look(SECOND, "#groups"),
    "subject": Look(SUBJECT),
    "subject-figures": Look(SUBJECT, ".viewer"),
    "subject-dark": Look(SUBJECT, ".viewer", scheme="dark"),
}


def write_pages(folder: Path) -> Path:
    """Write all that the looks are of, a cohort with pictures and the second run of one with several scanners; return the folder."""
    work = with_registered(write_fake_cohort(folder / "one" / "work", systemic=True))
    write_report(work, folder / "one" / "results", PAGED, STAGES)
    write_second_report(folder / "second")
    return folder


@contextmanager
def _shown(browser: Any, look: Look) -> Iterator[None]:
    features = [{"name": "prefers-color-scheme", "value": look.scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": look.media, "features": features})
    width, height = SIZE
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def take(browser: Any, folder: Path, look: Look) -> np.ndarray:
    """Return a screenshot, (rows, columns, 3) uint8, made smaller; the window shows the page from the place that the look names."""
    from selenium.webdriver.support.ui import WebDriverWait

    with _shown(browser, look):
        browser.get("about:blank")
        browser.get((folder / look.page).as_uri())
        ready = READY if look.page.endswith("index.html") else "return document.readyState === 'complete'"
        WebDriverWait(browser, 60).until(lambda browser: browser.execute_script(ready))
        # the day, pictures that are decoded late, and the edge of what is focused would differ from one time to the next
        browser.execute_script(
            """document.querySelectorAll('.made').forEach(made => { made.textContent = 'made for a test' })
            document.documentElement.style.scrollBehavior = 'auto'
            if (arguments[0]) document.querySelector(arguments[0]).scrollIntoView()
            else window.scrollTo(0, 0)""",
            look.at,
        )
        browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return np.asarray(picture.resize((SIZE[0] // KEPT, SIZE[1] // KEPT), Image.Resampling.BOX))


def kept(name: str) -> np.ndarray:
    """Return the screenshot of a name that a person has looked at."""
    with Image.open(FOLDER / f"{name}.png") as picture:
        return np.asarray(picture.convert("RGB"))


def different_share(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of cells of two screenshots that look different, 1 where their sizes differ."""
    if one.shape != other.shape:
        return 1.0
    rows, columns = one.shape[0] // CELL, one.shape[1] // CELL
    cells = [
        picture[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3).mean((1, 3), dtype=np.float32)
        for picture in (one, other)
    ]
    return float((np.abs(cells[0] - cells[1]).max(-1) > FAR).mean())


def save(picture: np.ndarray, path: Path) -> None:
    """Write a screenshot with 256 colours, chosen so that rare ones are kept: a status is a few pixels."""
    Image.fromarray(picture).quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Take all screenshots anew."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, driver(Path(scratch) / "profile") as browser:
        pages = write_pages(Path(scratch))
        for name, look in LOOKS.items():
            save(take(browser, pages, look), folder / f"{name}.png")


if __name__ == "__main__":
    main()
