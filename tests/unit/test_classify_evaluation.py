"""The benchmark of the evaluation measures what it says, without the X-rays too."""

import numpy as np

from benchmarks import classify_evaluation as benchmark


def test_sets_cover_and_a_split_by_images_is_seen_to_inflate_without_any_data(tmp_path):
    assert benchmark.read_pictures(tmp_path) is None
    table, figures = benchmark.conformal_sets(None, 20)
    assert len(table.rows) == 12
    assert figures["conformal_gap"] < 0.01
    _, figures = benchmark.splits(None, 1)
    assert figures["image_split_inflates"] > 0.2 > figures["subject_split_inflates"]
    assert figures["splits_caught"] == 1
    _, figures = benchmark.thresholds(None, 40)
    assert figures["rule_out_kept_simulated"] > 0.75


def test_scans_of_a_subject_are_alike_but_not_the_same():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 28, 28)).astype(np.uint8)
    many = benchmark.many_of_each(images, rng)
    assert many.shape == (8, 28, 28)
    assert len(np.unique(many.reshape(8, -1), axis=0)) == 8
