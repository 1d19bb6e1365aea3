"""The documentation as a site: it builds without a broken link, asks no network for anything, and every page that is named is there."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.docs.pages import PAGES, ROOT

needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: make install")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src", "video": "src", "embed": "src", "object": "data"}
RELATIONS = {"canonical", "prev", "next", "search", "author", "license"}
"""Of links in a page's head: those that are not loaded."""


class Loads(HTMLParser):
    """Collects the addresses that a browser loads by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        if tag in LOADED and given.get(LOADED[tag]):
            self.found.append(given[LOADED[tag]])
        if tag == "link" and not set(given.get("rel", "").split()) <= RELATIONS:
            self.found.append(given.get("href", ""))
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


def built(source: Path, place: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(source / "mkdocs.yml"), "-d", str(place)]
    return subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    done = built(ROOT, place)
    assert done.returncode == 0, done.stdout
    return place


@needs_mkdocs
def test_the_site_builds_without_a_warning_and_every_page_is_in_it(site):
    made = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert {page.relative_to(ROOT / "docs").with_suffix("") for page in PAGES if page.is_relative_to(ROOT / "docs")} <= made


@needs_mkdocs
def test_no_page_asks_the_network_for_anything(site):
    # the page that says that there is no such page is for servers alone, and names files from the root
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert len(loads.found) > 3
        for address in loads.found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            assert address.startswith("data:") or (page.parent / address.split("?")[0].split("#")[0]).exists(), f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style
    assert len(pages) > 30


@needs_mkdocs
def test_nothing_of_a_page_is_left_as_marks(site):
    """Readers of Markdown differ in where a table, a list or a block may begin."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for mark in (r"<p>\s*\|.*", r"<p>[^<]*\n[-*] .*", r"```.*", r"\*\*[^<*]{2,60}\*\*", r"\]\([^)]*\)"):
            assert not re.findall(mark, text), f"{page.name}: {re.findall(mark, text)[:3]}"


@needs_mkdocs
@pytest.mark.skipif(not (chromium.CHROMIUM and chromium.DRIVER), reason=chromium.MISSING)
def test_a_browser_shows_the_pages_from_a_folder_without_a_request_to_a_host(site, tmp_path):
    with chromium.driver(tmp_path) as browser:
        for name in ("index", "configuration", "guide/data", "adding/stage"):
            browser.get((site / f"{name}.html").as_uri())
            assert browser.find_element("css selector", "h1").text.rstrip("#").strip()
        asked = [address for address in chromium.requests(browser) if not address.startswith(("file:", "data:", "chrome"))]
        assert asked == []
        browser.get((site / "configuration.html").as_uri() + "#regseg-network")
        assert browser.execute_script("return document.querySelector(':target').closest('tr').innerText").startswith("network")


@needs_mkdocs
@pytest.mark.parametrize("wrong", ["[gone](gone.md)", "[gone](privacy.md#gone)", "[gone](../config.yaml)"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path, wrong):
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for page in (path for path in PAGES if path.is_relative_to(ROOT / "docs")):
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("# Page\n" if page.name != "index.md" or page.parent.name != "docs" else f"# Start\n\n{wrong}\n")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "index.md" in done.stdout and wrong.rpartition("(")[2].rstrip(")").rpartition("#")[2] in done.stdout


def slug(heading: str) -> str:
    """Return the anchor that readers of Markdown give a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", ""))).strip("- ").lower()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_of_it(page):
    text = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} is not there"
        if anchor:
            there = path.read_text(encoding="utf-8")
            anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", there, re.MULTILINE)} | set(re.findall(r'id="([^"]+)"', there))
            assert anchor in anchors, f"{target}: no such heading"


def test_every_page_that_code_settings_or_messages_name_is_there():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    named = set()
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".yaml", ".json", ".smk", ".md", ".toml", ".tsv", ".j2", ".html", ""):
            found = re.findall(r"\bdocs/[\w/.-]+\.(?:md|png|yaml|css)\b", path.read_text(encoding="utf-8", errors="ignore"))
            named |= {(each, name) for each in found}
    assert [(each, name) for each, name in sorted(named) if not (ROOT / each).exists()] == [] and len(named) > 30


def test_the_pages_of_the_guide_are_short():
    long = {page.name: count for page in (ROOT / "docs" / "guide").glob("*.md") if (count := len(page.read_text().splitlines())) > 300}
    assert long == {}
