"""A stage's version is raised whenever its bytes change: old results are then not taken for new ones."""

import json

import pytest

from cohortex.stages import STAGES
from tests import golden


@pytest.fixture(scope="module")
def known():
    return json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_makes_the_bytes_of_its_version(known, stage):
    then, now = known["stages"][stage], golden.told(stage)
    assert now["version"] == then["version"], "the version was raised: write down the new bytes with `python -m tests.golden`"
    assert now["models"] == then["models"], "other weights are shipped: write down the new bytes with `python -m tests.golden`"
    raise_it = f"raise the version of {stage} in cohortex/stages/__init__.py, then run `python -m tests.golden`"
    assert now["numbers"] == pytest.approx(then["numbers"], rel=golden.TOLERANCE, abs=1e-6), raise_it
    if golden.processor() == known["processor"]:
        assert now["sha256"] == then["sha256"], raise_it
