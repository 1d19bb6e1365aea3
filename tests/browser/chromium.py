"""Headless Chromium for the tests and benchmarks of pages: what it asked of a network, what its console says, what axe finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "chromium and chromedriver are not installed (apt-get install chromium chromium-driver)"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
WEBGL = FLAGS.replace("--disable-gpu", "--use-angle=swiftshader --enable-unsafe-swiftshader")
"""With WebGL 2 that needs no graphics card."""
READY = """return location.protocol === 'file:' && document.readyState === 'complete' && !!document.querySelector('#table tbody tr')
    && document.querySelector('#table').getAttribute('aria-busy') === 'false'"""
"""Whether the report is there and its table of images drawn."""


@contextmanager
def driver(profile: Path, flags: str = FLAGS) -> Iterator[Any]:
    """Give a browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*flags.split(" "), f"--user-data-dir={profile}", "--window-size=1300,900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def requests(browser: Any) -> list[str]:
    """Return the addresses that were asked for since somebody looked last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]


def console_errors(browser: Any) -> list[dict[str, Any]]:
    """Return errors and warnings of the console since somebody looked last."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def axe_findings(browser: Any) -> list[dict[str, Any]]:
    """Return what axe-core finds wrong with the page that is open: ``id``, ``impact``, ``help``, ``nodes``."""
    browser.set_script_timeout(300)
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    return browser.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(found => done(found.violations))"
    )
