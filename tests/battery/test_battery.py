"""Every case of the battery through the checker alone: the verdict, the words, the input, time and memory."""

from pathlib import Path

import pytest

from tests.battery.case import Case, judge
from tests.battery.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    found = judge(case, tmp_path / "in")
    assert not found.wrong, "; ".join(found.wrong)


def test_every_case_stands_once() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
