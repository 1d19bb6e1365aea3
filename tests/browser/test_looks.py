"""Pages look like the screenshots that a person has looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.browser import looks
from tests.browser.chromium import CHROMIUM, DRIVER, MISSING

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
MOST = 0.04
"""The share of a page that may look different: fonts and versions of a browser differ, a layout that broke moves far more."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    return looks.write_pages(tmp_path_factory.mktemp("looks"))


@pytest.mark.parametrize("name", looks.LOOKS)
def test_a_page_looks_as_a_person_has_seen_it(browser, pages, name, tmp_path_factory):
    seen = looks.take(browser, pages, looks.LOOKS[name])
    share = looks.different_share(seen, looks.kept(name))
    if share > MOST:
        path = tmp_path_factory.getbasetemp() / f"{name}.png"
        looks.save(seen, path)
        pytest.fail(
            f"{share:.0%} of {name} looks different: compare {path} with {looks.FOLDER / name}.png; "
            "where the new one is right, python -m tests.browser.looks takes them all anew"
        )


def test_every_screenshot_is_one_of_a_page_that_is_compared():
    assert {path.stem for path in looks.FOLDER.glob("*.png")} == set(looks.LOOKS)


@pytest.mark.parametrize(("broken", "why"), [("main { display: none }", "nothing"), ("main { transform: translateX(60px) }", "moved")])
def test_a_page_that_is_broken_looks_different(browser, pages, broken, why):
    name = "report"
    original = browser.get

    def get(address):
        original(address)
        # the page's own policy refuses styles from elsewhere, not those that a script sets
        browser.execute_script(
            "const main = document.querySelector('main'); if (main) main.style.cssText = arguments[0]", broken.partition("{")[2].strip("} ")
        )

    browser.get = get
    try:
        share = looks.different_share(looks.take(browser, pages, looks.LOOKS[name]), looks.kept(name))
    finally:
        browser.get = original
    assert share > 1.5 * MOST, why


def test_noise_of_letters_is_no_difference_and_a_moved_block_is_one():
    rng = np.random.default_rng(1)
    page = np.full((450, 650, 3), 250, np.uint8)
    page[100:300, 50:350] = 60
    noisy = np.clip(page + rng.normal(0, 20, page.shape), 0, 255).astype(np.uint8)
    assert looks.different_share(page, noisy) == 0
    assert looks.different_share(page, np.roll(page, 40, 1)) > 0.05
    assert looks.different_share(page, page[:-10]) == 1
