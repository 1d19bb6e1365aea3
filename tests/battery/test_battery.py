"""Every case of the battery through the checker alone: the verdict, the words, the input, time and memory."""

from pathlib import Path

import pytest

from tests.battery.case import Case, judge
from tests.battery.cases import CASES
from tests.battery.elsewhere import PROVED


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    found = judge(case, tmp_path / "in")
    assert not found.wrong, "; ".join(found.wrong)


def test_every_case_stands_once() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_what_other_tests_prove_is_proved_by_tests_that_there_are() -> None:
    tests = Path(__file__).resolve().parents[1]
    for case in PROVED:
        for name in case.tests:
            file, _, function = name.partition("::")
            assert f"def {function}(" in (tests / file).read_text(), f"{case.id}: there is no {name}"
    assert not {case.id for case in PROVED} & {case.id for case in CASES}
