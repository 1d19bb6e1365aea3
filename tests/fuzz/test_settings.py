"""Configurations and tables made up by hypothesis: what cannot be meant is refused with a sentence that names it, and nothing else happens.

Texts and trees are mutated where a user's hand slips (types, keys, indentation, doubled keys) and where someone means harm (depth, aliases
that unfold, numbers that no machine holds, odd letters).
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortex.cohort.table import COLUMNS, read_cohort_table, read_table
from cohortex.config import canonical, check_config, check_files, let_said_win
from cohortex.errors import BadInput, Refused
from cohortex.io.boxes import CORNERS, read_boxes
from tests.workflow import ROOT

SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text())
TEXT = (ROOT / "config.yaml").read_text()
LINES = [line.split("  #")[0].rstrip() for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
LONGEST = 20_000
"""Letters of a refusal; it may list many problems, never a file."""
FIXED = settings(deadline=5000, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ODD_WORDS = (
    "",
    "~",
    "null",
    "\0",
    "\ud800",
    "a" * 5000,
    "../../x",
    "T1w\n",
    "é",
    "\u202e",
    "default",
    "__proto__",
    "<<",
    "{}",
    "1e400",
    "0x1F",
)
ODD_NUMBERS = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 10**400, 1e308, -0.0, True, False, 2**63, 0.1 + 0.2)

words = st.one_of(st.sampled_from(ODD_WORDS), st.text(max_size=12), st.sampled_from([*SHIPPED, "CT", "t1w", "methd", "weights", "train"]))
keys = st.one_of(words, st.integers(-3, 3), st.none(), st.booleans(), st.floats(allow_nan=True), st.just(date(2020, 1, 1)))
leaves = st.one_of(
    words, st.sampled_from(ODD_NUMBERS), st.none(), st.integers(), st.floats(), st.just(date(2020, 1, 1)), st.binary(max_size=4)
)
trees = st.recursive(leaves, lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(keys, below, max_size=4)), max_leaves=12)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a tree, the root first."""
    yield path
    for key, below in tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(below, (*path, key))


PLACES = [path for path in places(SHIPPED) if path]


def changed(path: tuple[Any, ...], value: Any, how: str, key: Any) -> dict[str, Any]:
    """Return the shipped configuration with one value replaced, taken out, or a key added beside it."""
    tree = copy.deepcopy(SHIPPED)
    at = tree
    for step in path[:-1]:
        at = at[step]
    if how == "replaced":
        at[path[-1]] = value
    elif how == "gone":
        del at[path[-1]]
    elif isinstance(at, dict):
        at[key] = value
    else:
        at.append(value)
    return tree


def checked(config: Any, said: Any) -> dict[str, Any] | str:
    """Return a checked configuration, or the sentence of its refusal."""
    try:
        done = check_config(let_said_win(config, said))
    except Refused as error:
        assert 0 < len(str(error)) < LONGEST
        return str(error)
    # what was taken can be handed to jobs as one string
    assert canonical(done)
    return done


@settings(FIXED, max_examples=150)
@given(st.sampled_from(PLACES), trees, st.sampled_from(["replaced", "replaced", "gone", "added"]), keys)
def test_one_slip_in_the_configuration_is_taken_or_refused_by_its_name(path: tuple[Any, ...], value: Any, how: str, key: Any) -> None:
    found = checked(changed(path, value, how, key), {path[0]: value})
    if isinstance(found, str):
        named = [str(path[0]), str(key)[:60] or "''", "has a key"]
        named += ["input", "output", "work"] * (path[0] in ("input", "output", "work"))
        assert any(name in found for name in named), found


@settings(FIXED, max_examples=100)
@given(st.dictionaries(st.one_of(st.sampled_from(list(SHIPPED)), keys), trees, max_size=5))
def test_whatever_a_user_says_over_the_shipped_configuration_is_taken_or_refused(said: dict[Any, Any]) -> None:
    merged = copy.deepcopy(SHIPPED)
    merged.update(copy.deepcopy(said))
    checked(merged, said)


def of_files(text: str | bytes) -> str:
    """Give a text to the check of files, and where that has no objection load it for the check of what it says; return what is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            check_files([path])
        except Refused as error:
            assert "c.yaml" in str(error) and len(str(error)) < LONGEST
            return str(error)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = checked({**copy.deepcopy(SHIPPED), **content}, content) if isinstance(content, dict) else ""
    return found if isinstance(found, str) else ""


FRAGMENTS = (
    *(
        "&a",
        "*a",
        "<<: *a",
        "!!python/object/apply:os.system [ls]",
        "!!set {a}",
        "!!binary x",
        "!!timestamp 2001-13-45",
        "!x y",
        "? [a, b]",
    ),
    *(
        "- - - -",
        "[" * 40,
        "{" * 40,
        "key: key: key",
        "\t",
        "%YAML 9.9",
        "---",
        "...",
        "\x85",
        "\ufeff",
        "\x00",
        "'",
        '"',
        "|",
        ">",
        "#",
        ": ",
    ),
    *("1" * 5000, "0o7", "0b1", "1_000", "190:20:30", "2001-01-01", ".nan", ".inf", "-.inf", "yes", "~", "seed: 1", "seed: 2"),
)
slips = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40), st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5))), max_size=4)


@settings(FIXED, max_examples=100)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=12), slips)
def test_lines_out_of_order_and_odd_words_in_a_configuration_file_are_taken_or_refused(
    lines: list[str], slipped: list[tuple[int, int, str]]
) -> None:
    text = "\n".join(lines)
    for line, column, piece in slipped:
        at = min(len(text), line + column)
        text = text[:at] + piece + text[at:]
    of_files(text)


@settings(FIXED, max_examples=60)
@given(st.one_of(trees.map(lambda tree: {"denoise": tree}), trees))
def test_a_tree_that_yaml_writes_is_taken_or_refused(tree: Any) -> None:
    try:
        text = yaml.dump(tree, allow_unicode=True)
    except (yaml.YAMLError, ValueError):
        return
    of_files(text)


@settings(FIXED, max_examples=60)
@given(st.binary(max_size=60))
def test_bytes_in_a_configuration_file_are_taken_or_refused(data: bytes) -> None:
    of_files(data)


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (BOMB, "alias"),
        ("denoise:\n  default: &a\n    options: *a\n", "alias"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested"),
        ("{a: " * 3000 + "1" + "}" * 3000, "nested"),
        ("seed: " + "9" * 5000, "line 1"),
        ("seed: 0x" + "f" * 5000, "19 digits"),
        ("seed: 2001-13-45", "line 1"),
        ("? {a: 1}\n: 2\n", "line 1"),
        ("a: !!binary ä\n", "line 1"),
        ("seed: 1\nseed: 2\n", "line 2"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1"),
    ],
    ids=["bomb", "circle", "lists", "mappings", "digits", "hexadecimal", "date", "key", "binary", "twice", "object"],
)
def test_what_no_loader_should_meet_is_refused_before_it_is_loaded(text: str, word: str) -> None:
    assert word in of_files(text)


cells = st.one_of(st.text(max_size=8), st.sampled_from([*ODD_WORDS, "001", "T1w", "CT", "a.nii", "nan", "1e999", "-1", "3", "7.5", "mask"]))


def table(header: list[str], rows: list[list[str]], ragged: int) -> bytes:
    lines = ["\t".join(header), *("\t".join(row[: len(header) + (i == ragged)]) for i, row in enumerate(rows))]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def headers(needed: tuple[str, ...]) -> Any:
    more = st.lists(st.one_of(st.sampled_from(COLUMNS), st.text(max_size=6)), max_size=2)
    return st.one_of(more.map(lambda names: [*needed, *names]), st.permutations(needed), st.lists(cells, min_size=1, max_size=4))


rows = st.lists(st.lists(cells, min_size=12, max_size=12), max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@settings(FIXED, max_examples=120)
@given(headers(("subject", "modality", "path")), rows, st.integers(0, 20))
def test_a_table_of_a_cohort_is_taken_or_refused(folder: Path, header: list[str], lines: list[list[str]], ragged: int) -> None:
    (folder / "c.tsv").write_bytes(table(header, lines, ragged))
    try:
        found, people = read_cohort_table(folder / "c.tsv", ["T1w"])
    except Refused as error:
        assert "c.tsv" in str(error) and len(str(error)) < LONGEST
        return
    assert len({row["subject"] for row in found}) == len(people)
    assert all(set(COLUMNS) <= set(row) for row in found)


@settings(FIXED, max_examples=120)
@given(headers(("label", *CORNERS)), rows, st.integers(0, 20), st.sampled_from([(9, 8, 7), (9, 8, 1)]))
def test_a_table_of_boxes_is_taken_or_a_sentence(
    folder: Path, header: list[str], lines: list[list[str]], ragged: int, shape: tuple[int, int, int]
) -> None:
    (folder / "b.tsv").write_bytes(table(header, lines, ragged))
    try:
        found = read_boxes(folder / "b.tsv", shape, np.eye(4), "b.tsv")
    except BadInput as bad:
        assert bad.code and "b.tsv" in bad.sentence
        return
    corners = np.array([found[name] for name in CORNERS], float)
    assert np.isfinite(corners).all() and (corners[:3] < corners[3:]).all()


@settings(FIXED, max_examples=80)
@given(headers(("subject", "label")), rows, st.integers(0, 20))
def test_a_table_of_labels_is_taken_or_refused(folder: Path, header: list[str], lines: list[list[str]], ragged: int) -> None:
    (folder / "l.tsv").write_bytes(table(header, lines, ragged))
    try:
        columns, found = read_table(folder / "l.tsv", ("subject",))
    except Refused as error:
        assert "l.tsv" in str(error) and len(str(error)) < LONGEST
        return
    assert all(list(row) == columns for _, row in found)
