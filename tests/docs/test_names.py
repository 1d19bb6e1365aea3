"""Files, modules and codes that the pages name are those of the code."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

FOLDERS = "cohortex|tests|benchmarks|scripts|rules|schemas|zoo|profiles|envs|containers"
EXAMPLES = ("deblur", "bilateral", "residual_cnn", "vtk")
"""What the pages on adding something make."""
MADE_UP = ("label-7", "part-mag", "no-view", "no-reference")
"""Words of the guide with a hyphen that are no code, or are put together in the code."""


def codes(page: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) if not any(word in code for word in EXAMPLES)]


def defined(name: str) -> bool:
    """Say whether a dotted name is a module or package, or stands in the one that its beginning names."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            rest = parts[count:]
            return not rest or re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")) is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_module_that_a_page_names_is_there(page):
    for code in codes(page):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w/.-]+", code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"(?:cohortex|benchmarks|tests)(?:\.\w+)+", code):
            assert defined(code), code


def test_every_code_of_a_status_that_the_guide_names_is_one_of_the_program():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "cohortex").rglob("*.py"))
    named = {code for page in ("stages", "regseg", "data", "running") for code in codes(ROOT / "docs" / "guide" / f"{page}.md")}
    hyphened = {code for code in named if re.fullmatch(r"[a-z]+(?:-[a-z0-9]+)+", code)} - set(MADE_UP)
    assert {code for code in hyphened if f'"{code}"' not in source} == set() and len(hyphened) > 50
