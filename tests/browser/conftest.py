"""One browser a module, and pages that are opened anew in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with driver(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any) -> Callable[[Path, str], Any]:
    """Give what opens a page and waits until a script says that it is ready."""
    from selenium.webdriver.support.ui import WebDriverWait

    def opened(page: Path, ready: str) -> Any:
        # Opening the page that is open already can return before the new one is there.
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(page.as_uri())
        WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(ready))
        return browser

    return opened
