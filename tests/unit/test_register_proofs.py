"""The proofs of registration: what they measure, what the baselines find, and that pieces of a record come together."""

import json
import sys

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import register_classical as classical
from benchmarks import register_proofs
from benchmarks.register_proofs import Found
from benchmarks.register_proofs_data import OBSERVED, TEST, TRAIN, Data, nothing
from cohortex.errors import Refused
from cohortex.training.register_data import ImagePair

SHAPE = (16, 20, 16)


def blob(shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of two bodies within each other, moved along x, and its labels."""
    at = np.indices(SHAPE) - np.array([7.5 + shift, 9.5, 7.5]).reshape(3, 1, 1, 1)
    outer, inner = np.linalg.norm(at / np.array([1.0, 1.3, 0.9]).reshape(3, 1, 1, 1), axis=0), np.linalg.norm(at, axis=0)
    labels = (outer < 5).astype(np.uint8) + 2 * (inner < 3)
    return np.asarray(ndimage.gaussian_filter(0.4 * (outer < 5) + 0.4 * (inner < 3), 0.8), np.float32), labels.astype(np.uint8)


@pytest.fixture(scope="module")
def pair():
    (fixed, one), (moving, two) = blob(0), blob(2)
    truth = np.zeros((3, *SHAPE), np.float32)
    truth[0] = 2
    return ImagePair(fixed, moving, (one, two), truth)


def test_a_true_displacement_has_no_error_and_full_overlap(pair, tmp_path):
    have = Data(tmp_path)
    found = have.scored(lambda fixed, _: pair.displacement if fixed is pair.fixed else -pair.displacement, [pair], both=True)
    assert (found.dice, found.folding, found.apart, found.error) == (1, 0, 0, 0)
    before = have.scored(nothing, [pair])
    assert before.dice < 0.7
    assert before.error == 2
    assert np.isnan(before.apart)


def test_a_baseline_is_measured_once(pair, tmp_path):
    have, asked = Data(tmp_path), []

    def way(fixed, moving):
        asked.append(1)
        return nothing(fixed, moving)

    assert repr(have.scored(way, [pair], kept="way")) == repr(have.scored(way, [pair], kept="way"))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "way",
    [lambda a, b: classical.by_information(a, b, "rigid", 5.0), classical.demons, classical.bspline],
    ids=["rigid", "demons", "bspline"],
)
def test_the_baselines_find_a_shift_of_two_voxels(pair, tmp_path, way):
    assert Data(tmp_path).scored(way, [pair]).error < 0.7


def test_heads_are_of_one_side_and_labels_are_moved_with_the_image(tmp_path):
    np.savez(tmp_path / "heads.npz", images=np.stack([blob(n / 5)[0] for n in range(TRAIN + TEST)]), labels=[blob(0)[1]] * (TRAIN + TEST))
    have = Data(tmp_path)
    assert len(have.train) == TRAIN * (TRAIN - 1)
    assert len(have.test) == TEST * (TEST - 1)
    assert not {p.subject for p in have.train} & {p.subject for p in have.test}
    assert set(OBSERVED) < {1, 2, 3, 4, 5}


def test_pieces_of_a_record_come_together(tmp_path, monkeypatch, capsys):
    file, answers = tmp_path / "record.json", {"G14": True, "G16": False}
    np.savez(tmp_path / "heads.npz", images=np.stack([blob(n / 5)[0] for n in range(2)]), labels=[blob(0)[1]] * 2)

    def run(row, holds):
        answers[row] = holds
        monkeypatch.setattr(sys, "argv", ["register_proofs", "--proof", row, "--save", str(file), "--folder", str(tmp_path)])
        register_proofs.main()
        return capsys.readouterr().out.splitlines()[-1]

    def statement(row):
        return (f"statement {row}", lambda _: Found({"dice": 0.5}, {"over": answers[row], "count": True}))

    monkeypatch.setattr(register_proofs, "STATEMENTS", {row: statement(row) for row in answers})
    assert run("G16", False) == "FIGURE proofs_holding=0 proofs_total=1"
    assert run("G14", True) == "FIGURE proofs_holding=1 proofs_total=2"
    run("G16", False)
    rows = json.loads(file.read_text())["tables"]["proofs"]["rows"]
    assert [row[0] for row in rows] == ["G14", "G16"]
    assert rows[1][2:] == ["dice 0.5", "fails: over"]
    with pytest.raises(Refused, match="no proof 'G99'"):
        monkeypatch.setattr(sys, "argv", ["register_proofs", "--proof", "G99"])
        register_proofs.main()
