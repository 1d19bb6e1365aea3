"""How the benchmark of heads judges probabilities: chance alone, and a planted temperature, are told apart."""

import numpy as np
import pytest

from benchmarks.classify_demo import CLASSES, calibration_slope, errors_if_calibrated, judged, told
from cohortex.measures.classification import calibration_error
from cohortex.models.classify.fusion import log_softmax


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated probabilities (n, 3) and classes drawn from them."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet([0.4, 0.4, 0.4], n)
    return probability, np.array([rng.choice(3, p=row) for row in probability])


@pytest.mark.parametrize(("temperature", "calibrated"), [(1.0, True), (3.0, False), (0.3, False)])
def test_the_slope_is_the_planted_temperature_and_the_error_is_above_chance_where_there_is_one(temperature, calibrated):
    probability, y = drawn(600, 1)
    changed = np.exp(log_softmax(np.log(np.clip(probability, 1e-12, None)) / temperature))
    slope, low, high = calibration_slope(y, changed)
    assert low < temperature < high and low < slope < high
    assert (low < 1 < high) == calibrated
    assert (calibration_error(y, changed) < np.quantile(errors_if_calibrated(changed, 300), 0.95)) == calibrated


def test_probabilities_of_a_run_are_read_and_judged(tmp_path):
    probability, _ = drawn(60, 2)
    y = probability.argmax(axis=1)
    names = [f"held{number:03d}" for number in range(60)]
    people = "".join(f"sub-{name}\t{CLASSES[label]}\n" for name, label in zip(names, y, strict=True))
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\n" + people)
    head = "subject\timage\tclassify.class\t" + "\t".join(f"classify.p_{name}" for name in CLASSES) + "\n"
    rows = [
        f"{name}\t{name}_T1w\tx\t" + "\t".join(map(str, row)) + f"\n{name}\t{name}_CT\t\t\t\t\n"
        for name, row in zip(names, probability, strict=True)
    ]
    (tmp_path / "manifest.tsv").write_text(head + "".join(rows))
    known, found = told(tmp_path)
    assert (known == y).all() and found == pytest.approx(probability)
    _, figures = judged(known, found)
    assert figures["demo_accuracy"] == 1 and figures["demo_slope"] > 1
