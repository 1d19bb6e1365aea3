"""Maps of structures: what is in a simulated head, and where."""

import numpy as np
import pytest

from cohortex.demo.template import ORIGIN_MM, SHAPE
from cohortex.demo.tissues import BONE, CSF, GREY, SOFT, WHITE
from cohortex.errors import Refused
from cohortex.training.contrasts import BRAIN, DEEP, STEM, STRUCTURES, VENTRICLE
from cohortex.training.head_maps import head_maps, individual_map, simulated_map, zones


@pytest.fixture(scope="module")
def head():
    """One simulated head."""
    return simulated_map(np.random.default_rng([1, 1, 0]))


def at(head, *point_mm):
    """Return the structures within 4 mm of a point of MNI space."""
    low = np.round(np.array(point_mm) - ORIGIN_MM).astype(int) - 4
    return np.unique(head[tuple(slice(a, a + 9) for a in low)])


def test_structures_lie_where_anatomy_has_them(head):
    assert (head.shape, head.dtype) == (SHAPE, np.uint8)
    assert head.max() < STRUCTURES
    assert VENTRICLE in at(head, 16, -35, 16)
    assert VENTRICLE in at(head, -12, 15, 12)
    assert DEEP in at(head, 11, -18, 7)
    assert DEEP in at(head, -26, 4, 2)
    assert STEM in at(head, 0, -28, -32)
    assert {GREY, CSF} & set(at(head, 0, -90, 5))
    assert not {VENTRICLE, DEEP} & set(at(head, 40, -60, 40))
    assert BONE in at(head, 0, 78, 20)
    assert SOFT in head


def test_the_brain_has_the_volumes_of_a_brain(head):
    ml = np.bincount(head.ravel(), minlength=STRUCTURES) / 1000
    assert 900 < ml[BRAIN].sum() < 2200
    assert 5 < ml[VENTRICLE] < 150
    assert 10 < ml[DEEP] < 80
    assert 250 < ml[WHITE] + ml[STEM] < 900
    assert not (zones()[0] & ~(np.abs(np.arange(SHAPE[0]) + ORIGIN_MM[0]) < 40)[:, None, None]).any()


def test_the_real_head_is_refused_where_its_files_are_missing(tmp_path):
    with pytest.raises(Refused, match=r"ch2\.nii\.gz.*mricron-data"):
        individual_map(tmp_path, np.random.default_rng(0))
    assert head_maps(0, 0, None, 1) == []
