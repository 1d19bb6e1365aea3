"""The dataset report of a large cohort: how large, how long to make, how long until it can be read, is it silent and accessible?

Part of `benchmarks.report`. The records are those of a cohort that never ran (`tests.fake_cohort`), with pictures of every image at every
stage. The page is made in a process of its own and opened in headless Chromium, from the file, five times.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Table
from benchmarks.workflow import measured
from tests.browser.chromium import READY, axe_findings, console_errors, driver, requests
from tests.fake_cohort import PAGED, STAGES, write_fake_cohort

TIMES = 5
MAKE = """
import json, sys
from pathlib import Path
from cohortex.report.page import write_report
folder = Path(sys.argv[1])
write_report(folder / "work", folder / "results", json.loads(sys.argv[2]), json.loads(sys.argv[3]))
"""


def opened(browser: Any, page: Path) -> float:
    """Return the seconds from the address until the table stands."""
    browser.get("about:blank")
    # what the browser's own first page asked for
    requests(browser)
    started = time.monotonic()
    browser.get(page.as_uri())
    while not browser.execute_script(READY):
        time.sleep(0.01)
    return time.monotonic() - started


def filtered(browser: Any, word: str) -> float:
    """Return the seconds until the table shows what a typed word finds."""
    from selenium.webdriver.common.by import By

    before = browser.find_element(By.ID, "shown").text
    started = time.monotonic()
    browser.find_element(By.ID, "search").send_keys(word)
    while browser.find_element(By.ID, "shown").text == before or not browser.execute_script(READY):
        time.sleep(0.01)
    return time.monotonic() - started


def page(folder: Path, subjects: int, lost: int) -> tuple[dict[str, Table], dict[str, float]]:
    """Measure the page of a cohort whose records lie in a folder, or are written there.

    Parameters
    ----------
    folder : Path
    subjects : int
        Each with a T1w and a CT.
    lost : int
        Subjects whose CT is set aside.
    """
    if not (folder / "work").is_dir():
        write_fake_cohort(folder / "work", subjects, batch_size=100, lost=lost)
    shutil.rmtree(folder / "results", ignore_errors=True)
    made = measured([sys.executable, "-c", MAKE, str(folder), json.dumps(PAGED), json.dumps(STAGES)], folder)
    index = folder / "results" / "report" / "index.html"
    opens, filters, asked = [], [], []
    with driver(folder / "profile") as browser:
        for _ in range(TIMES):
            opens.append(opened(browser, index))
            filters.append(filtered(browser, "missing-slices"))
            asked += requests(browser)
        errors = console_errors(browser)
        serious = [each for each in axe_findings(browser) if each["impact"] in ("serious", "critical")]
    figures = {
        "index_mb": index.stat().st_size / 1e6,
        "open_s": max(opens),
        "filter_s": max(filters),
        "make_s": made.wall_s,
        "make_mb": made.head_mb,
        "external_requests": sum(not url.startswith(("data:", index.as_uri())) for url in asked),
        "console_errors": len(errors),
        "axe_serious": len(serious),
    }
    table = Table({"of the page": "", "value": ".4g", "unit": ""})
    for what, value, unit in (
        ("subjects", subjects, ""),
        ("images set aside", lost, ""),
        ("index.html", figures["index_mb"], "MB"),
        ("made in", made.wall_s, "s"),
        ("CPU time of it", made.cpu_s, "s"),
        ("largest memory of it", made.head_mb, "MB"),
        ("opens in, the slowest of five", max(opens), "s"),
        ("filters in, the slowest of five", max(filters), "s"),
    ):
        table.add(what, value, unit)
    for each in serious:
        table.add(f"axe: {each['id']} ({each['impact']})", len(each["nodes"]), "elements")
    return {"page": table}, figures
