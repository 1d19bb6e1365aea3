"""The proofs of super-resolution: what is said of figures, what is kept of a record, what the loop has to leave."""

import numpy as np
import pytest

from benchmarks import superresolve_proofs as proofs
from benchmarks.proofs import Found
from benchmarks.superresolve_proofs_data import middle, over, told
from benchmarks.superresolve_proofs_loop import judged, settings_of
from cohortex.bakeoff.systems import adjusted
from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.io.nifti import write_nifti
from cohortex.items import Image
from cohortex.publish import write_json
from cohortex.tables import write_table
from cohortex.volume import Volume


def test_a_row_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(Refused, match="S99"):
        proofs.prove("S01,S99", tmp_path, 1, None)


def test_a_proof_fails_by_the_statements_that_do_not_hold():
    assert Found([], {"a": True, "b": True}).verdict == "holds"
    assert Found([], {"a": True, "b": False, "c": False}).verdict == "fails: b; c"


def test_differences_are_paired():
    heads = np.array([1.0, 5.0, 9.0, 2.0])
    mean, low, high = over(heads + np.array([0.5, 0.6, 0.4, 0.5]), heads)
    assert mean == pytest.approx(0.5) and 0.3 < low < high < 0.7
    assert told("split", heads, heads - 1) == "split +4.25 dB, +1.00 [+1.00, +1.00] more"


def test_jitter_is_what_differs_between_slices_and_no_common_error():
    truth = np.random.default_rng(0).normal(size=(8, 8, 12)).astype(np.float32)
    assert proofs.jitter(truth + 3, truth) == pytest.approx(0, abs=1e-6)
    assert proofs.jitter(truth + np.where(np.arange(12) % 2, 0.5, 0), truth) > 0.3


def test_the_middle_of_a_head_is_cut_out():
    data = np.arange(90 * 60 * 30, dtype=np.float32).reshape(90, 60, 30)
    image = Image("a", "1", "", "T1w", "image", opener=lambda: Volume(data, np.eye(4), modality="T1w"))
    np.testing.assert_array_equal(middle(image, 40).array(), data[9:81, 10:50])


def test_the_loop_tries_rising_steps_and_is_judged_by_what_it_leaves(root, tmp_path):
    import yaml

    shipped = yaml.safe_load((root / "config.yaml").read_text())
    asked = settings_of(0.1)
    shipped["bakeoff"]["superresolve"] |= asked.pop("bakeoff")["superresolve"]
    config = check_config({**shipped, **{key: value for key, value in asked.items() if key in ("stages", "demo")}})
    assert [setting["training.steps"] for setting in adjusted(config, "superresolve")[1]] == [2, 6, 24]

    volume = Volume(np.ones((6, 6, 6), np.float32), np.eye(4), modality="T1w")
    folders = ("low_resolution", "truth", "denoised", "high_resolution")
    for folder in folders:
        write_nifti(tmp_path / folder / "1_T1w.nii.gz", volume)
    write_table(tmp_path / "pairs.tsv", ("image", "input"), [{"image": "1_T1w", "input": "low_resolution/1_T1w.nii.gz"}])
    for name in ("model.safetensors", "card.yaml"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).touch()
    history = [
        {"settings": {"training.steps": 2}, "value": 30.0, "best_so_far": 30.0},
        {"settings": {"training.steps": 6}, "value": 31.0, "best_so_far": 31.0},
    ]
    evaluation = {
        "history": history,
        "best": history[1],
        "test": {"value": 29.0},
        "chosen_on": {"split": "validation"},
        "input": "as measured",
    }
    write_json(tmp_path / "evaluation.json", evaluation)
    assert judged(tmp_path).verdict == "holds"
    write_json(tmp_path / "evaluation.json", {**evaluation, "best": history[0]})
    assert judged(tmp_path).verdict == "fails: refining improves or keeps validation PSNR"
    (tmp_path / "denoised" / "1_T1w.nii.gz").unlink()
    assert judged(tmp_path).verdict.startswith("fails: set without noise; ")
