"""Every case of the battery through the checker alone: the verdict, the words, the input, time and memory."""

import ast
from pathlib import Path

import pytest

from tests.battery.case import Case, judge
from tests.battery.cases import CASES
from tests.battery.elsewhere import PROVED

COUNTS = {"N": 27, "D": 25, "K": 13, "Z": 11, "T": 16, "M": 9, "R": 20, "G": 5, "S": 5, "P": 9}
"""How many cases of each kind there are."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    found = judge(case, tmp_path / "in")
    assert not found.wrong, "; ".join(found.wrong)


def test_every_case_stands_once() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_what_other_tests_prove_is_proved_by_tests_that_there_are() -> None:
    tests = Path(__file__).resolve().parents[1]
    there: dict[str, set[str]] = {}
    for case in PROVED:
        for name in case.tests:
            file, _, function = name.partition("::")
            if file not in there:
                tree = ast.parse((tests / file).read_text())
                there[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in there[file], f"{case.id}: there is no {name}"
            assert function.startswith("test_")
    assert not {case.id for case in PROVED} & {case.id for case in CASES}


def test_no_case_of_the_battery_is_missing() -> None:
    there = {case.id.rstrip("abcdefghi") for case in [*CASES, *PROVED]}
    wanted = {f"{kind}{number:02d}" for kind, count in COUNTS.items() for number in range(1, count + 1)}
    assert wanted <= there
