"""The proofs of noise reduction: what they measure, and that pieces of a record come together."""

import json
import sys

import numpy as np
import pytest

from benchmarks import denoise_proofs
from benchmarks.denoise_proofs import Found, over
from benchmarks.denoise_proofs_data import FILTERS, Case, Filter, noisier, noisy_case, tuned
from cohortex.errors import Refused


@pytest.fixture(scope="module")
def case():
    """Return a disc of water with a brighter one in it, at a low dose."""
    radius = np.hypot(*np.ogrid[-23.5:24, -23.5:24])
    picture = np.where(radius < 8, 60.0, np.where(radius < 20, 0.0, -1000.0))
    truth = np.repeat(picture[:, :, None], 2, axis=2).astype(np.float32)
    return noisy_case("head 0", truth, (2.0, 2.0, 3.0), 90.0, np.random.default_rng(0))


def test_filters_are_set_in_pixels_and_in_units_of_the_noise(case):
    assert Filter("total_variation", {"weight": 2.0})._scaled("weight", 2.0, case) == pytest.approx(2 * case.sigma)
    assert Filter("median", {})._scaled("radius_mm", 1.5, case) == 3.0
    for name in FILTERS:
        assert case.psnr(tuned(name, [case])(case)) > case.psnr(case.noisy) + 0.5, name


def test_a_perfect_result_has_the_noise_taken_away_and_nothing_of_the_anatomy(case):
    same, far = case.likeness(case.truth)
    assert (same, far) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert abs(case.correlation(case.truth)) < 0.1 < case.correlation(0.5 * case.noisy)


def test_other_kinds_of_noise_are_as_strong():
    truth = np.clip(np.random.default_rng(1).normal(0.5, 0.2, (64, 64, 4)), 0, 1).astype(np.float32)
    plain = Case("head 0", "T1w", truth, truth, np.ones(truth.shape, bool), (1.5, 1.5, 1.5), 0.0, 1.0)
    found = [noisier(plain, kind, 0.15, np.random.default_rng(2)) for kind in ("white", "impulse", "correlated")]
    assert [each.psnr(each.noisy) for each in found] == pytest.approx([16.48] * 3, abs=0.25)


def test_pieces_of_a_record_come_together(tmp_path, monkeypatch, capsys):
    file, answers = tmp_path / "record.json", {"N02": True, "N04": False}

    def run(row, holds):
        answers[row] = holds
        monkeypatch.setattr(sys, "argv", ["denoise_proofs", "--proof", row, "--save", str(file), "--scans", str(tmp_path)])
        denoise_proofs.main()
        return capsys.readouterr().out.splitlines()[-1]

    def statement(row):
        return (f"statement {row}", lambda _: Found({"gain dB": 1.25}, {"over": answers[row], "count": True}))

    monkeypatch.setattr(denoise_proofs, "STATEMENTS", {row: statement(row) for row in answers})
    assert run("N04", False) == "FIGURE proofs_holding=0 proofs_total=1"
    assert run("N02", True) == "FIGURE proofs_holding=1 proofs_total=2"
    assert run("N04", True) == "FIGURE proofs_holding=2 proofs_total=2"
    run("N04", False)
    record = json.loads(file.read_text())
    assert record["tables"]["proofs"]["rows"] == [
        ["N02", "statement N02", "gain dB 1.25", "holds"],
        ["N04", "statement N04", "gain dB 1.25", "fails: over"],
    ]
    assert record["figures"] == {"proofs_holding": 1, "proofs_total": 2}
    with pytest.raises(Refused, match="no proof 'N99'"):
        run("N99", True)


def test_every_row_has_its_turn():
    assert sorted(denoise_proofs.QUICK) == sorted(denoise_proofs.STATEMENTS)


def test_a_system_is_over_others_by_what_is_asked():
    assert over(30.4, [30.0, 29.0], 0.3) and not over(30.2, [30.0, 29.0], 0.3) and not over(30.0, [30.0])
