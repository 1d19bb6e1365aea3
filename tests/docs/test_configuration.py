"""The page of the configuration says what the schemas and config.yaml say."""

import re

import pytest
import yaml

from cohortex import config_reference as reference
from cohortex.schema import check, read_schema
from tests.docs.pages import PAGES, ROOT, blocks

PAGE = reference.PAGE.read_text(encoding="utf-8")
PROPERTIES = read_schema(reference.FILE)["properties"]
MEASURES = ROOT / "cohortex" / "report" / "measures.tsv"
EXAMPLES = [(name, value) for name, below in PROPERTIES.items() for value in below.get("examples", ())]


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def paths(value, path=()):
    for name, below in value.items():
        own = (*path, str(name))
        # an entry of a modality, and what a mapping without keys of its own holds, is no key
        if len(own) == 2 and own[0] in reference.STAGES and name != "default":
            continue
        yield own
        if isinstance(below, dict):
            yield from paths(below, own)


def test_the_page_is_what_the_command_writes():
    assert reference.page() == PAGE, "run python -m cohortex.config_reference"
    assert reference.main(["--check"]) == 0


def test_every_key_of_the_shipped_configuration_has_a_row_with_a_meaning_under_its_anchor(config):
    free = ("labels", "grid", "options", "network", "segment_network", "adjust", "similarity")
    wanted = {reference.anchor(path) for path in paths(config) if not set(path[:-1]) & set(free)}
    headings = {re.sub(r"[^\w-]", "", title.lower()) for title in re.findall(r"^##+ (.*)$", PAGE, re.MULTILINE)}
    rows = {found[1]: found[0] for found in re.finditer(r'<a id="([^"]+)"></a>.*', PAGE)}
    missing = {each for each in wanted if each not in rows and each.replace("-", "") not in {h.replace("-", "") for h in headings}}
    assert missing == set() and len(rows) > 250
    without = [name for name, row in rows.items() if not re.split(r"(?<!\\)\|", row)[-2].strip()]
    assert without == []


def test_anchors_are_unique_and_made_of_the_dotted_key():
    found = re.findall(r'<a id="([^"]+)"', PAGE)
    assert len(found) == len(set(found))
    assert {"input", "regseg-network", "denoise-training-steps", "preprocess-filters-gaussian-sigma_mm", "report-odd_z"} <= set(found)


def test_a_row_says_choices_range_default_and_meaning():
    row = next(line for line in PAGE.splitlines() if 'id="denoise-strength"' in line)
    assert "| number from 0 to 5 | `1` |" in row and "multiplies the noise" in row
    row = next(line for line in PAGE.splitlines() if 'id="device"' in line)
    assert "| `auto`, `cpu`, `cuda` | `auto` |" in row
    row = next(line for line in PAGE.splitlines() if 'id="preprocess-filters-gaussian-sigma_mm"' in line)
    assert "| `1.0` |" in row


@pytest.mark.parametrize(("name", "value"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_of_the_schema_is_accepted_and_shown(config, name, value):
    below = config[name]
    assert check({**config, name: {**below, **value} if isinstance(below, dict) else value}, reference.FILE)[1] == []
    assert yaml.safe_dump({name: value}, default_flow_style=None, sort_keys=False, width=120) in PAGE


def test_every_yaml_block_of_the_pages_about_settings_is_accepted(config):
    tried = 0
    for page in PAGES:
        for block in blocks(page):
            said = yaml.safe_load(block.text) if block.language == "yaml" else None
            if isinstance(said, dict) and set(said) <= set(config):
                assert check({**config, **said}, reference.FILE)[1] == [], f"{block.page}:\n{block.text}"
                tried += 1
    assert tried > 20


def named(page) -> list[tuple[str, tuple[str, ...]]]:
    """Return the keys that code in the sentences of a page names: `a.b.c`, `a: b: value`, `a: {b: value}`; with the code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for code in (" ".join(each.split()) for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)):
        chain = re.match(r"(?:[A-Za-z_]+: )+", f"{code} ")
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code):
            found.append((code, tuple(code.split("."))))
        elif chain:
            keys = tuple(re.findall(r"[A-Za-z_]+(?=: )", chain[0]))
            inner = re.match(r"\{([a-z_]+):", code[len(chain[0]) :])
            found.append((code, (*keys, inner[1]) if inner else keys))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page != reference.PAGE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_that_a_page_names_is_there(config, page):
    anchors = set(re.findall(r'<a id="([^"]+)"', PAGE)) | set(config) | {f"bakeoff-{task}" for task in config["bakeoff"]}
    measures = {(line.split("\t")[0], line.split("\t")[1]) for line in MEASURES.read_text().splitlines() if "\t" in line}
    for code, path in named(page):
        # `training` and `input` are sections of the configuration, and keys of stages, too
        if path[0] not in config or path[0] in ("training", "input", "labels", "ratings") or path[:2] in measures:
            continue
        keys = [key for key in path if key != "default" and not (key[:1].isupper() and path[0] in reference.STAGES)]
        assert "-".join(keys) in anchors or code.endswith((".tsv", ".py")) or "true_rows" in code, f"{code}: no such key"


def test_keys_are_found_in_sentences():
    assert sum(len(named(page)) for page in PAGES) > 100


def test_what_the_schemas_say_twice_is_said_in_cells_that_do_not_break_the_table():
    for line in PAGE.splitlines():
        if line.startswith("| <a"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line
    assert reference.meaning("as above", "Edge of a patch") == "Edge of a patch."
    assert reference.meaning("auto | none, see docs/models.md", "", ["auto"]) == "auto / none, see [models.md](models.md)."
    assert reference.meaning("a <task> in {a: [1, 2]}", "") == "A &lt;task&gt; in `{a: [1, 2]}`."


def test_comments_of_the_configuration_belong_to_the_key_below_them():
    assert reference.comments("# a\n# b\nx:\n  # c\n  y: 1\n  z: 2\n\n# d\nw: 1\n") == {("x",): "a b", ("x", "y"): "c", ("w",): "d"}
