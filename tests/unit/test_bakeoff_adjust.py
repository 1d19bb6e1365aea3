"""The loop that tries settings: when it stops, whom it looks at, what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage

from cohortex.bakeoff.adjust import Material, run_search, search
from cohortex.bakeoff.pairs import make_pair
from cohortex.bakeoff.restore import restorer
from cohortex.bakeoff.score import measured
from cohortex.bakeoff.systems import System, changed, system_named
from cohortex.config import check_config
from cohortex.errors import CohortexError, Refused
from cohortex.io.nifti import read_nifti
from cohortex.tables import read_table
from tests.unit.test_bakeoff import image
from tests.workflow import digests

GRID = [{"sigma_mm": 0.4}, {"sigma_mm": 3.0}]


@pytest.fixture(scope="module")
def config(root):
    found = yaml.safe_load((root / "config.yaml").read_text())
    found["bakeoff"]["superresolve"] |= {"edge": 32, "factor": 2, "training": {"steps": 1, "minutes": 5}}
    found["bakeoff"]["denoise"]["edge"] = 32
    found["superresolve"]["default"]["training"] = {"batch": 1, "patch": 8, "factors": [1.5, 2], "residual": True}
    return check_config(found)


def material(config, task, pairs, folder, training=()):
    return Material(list(training), pairs, config["denoise"], config["bakeoff"][task], 3, "cpu", folder / "running")


def values(*given):
    """Return settings with these values and a function that looks them up."""
    return [{"value": value} for value in given], lambda setting: setting["value"]


def test_it_stops_when_the_target_is_met():
    found = search(*values(1.0, 5.0, 9.0), target=4.0)
    assert (found.best, found.target_met, found.stopped, len(found.attempts)) == (1, True, "target", 2)


def test_without_the_target_the_best_so_far_is_flagged():
    found = search(*values(1.0, 3.0, 2.0), target=4.0)
    assert (found.best, found.target_met, found.stopped) == (1, False, "all tried")
    assert [attempt.best_so_far for attempt in found.attempts] == [1.0, 3.0, 3.0]


def test_it_stops_after_settings_in_a_row_without_gain():
    found = search(*values(5.0, 4.0, 5.0001, 99.0), patience=2)
    assert (found.stopped, len(found.attempts)) == ("no gain", 3)
    assert found.best == 2, "a gain too small to go on for is still the better one"
    assert search(*values(5.0, 4.0, 6.0, 99.0), patience=2).best == 3


def test_smaller_is_better_where_it_is_an_error():
    found = search(*values(0.5, 0.3, 0.4), larger_is_better=False, target=0.35)
    assert (found.best, found.target_met) == (1, True)


def test_a_setting_that_fails_is_told_of_and_the_others_are_tried():
    def evaluate(setting):
        if setting["value"] < 0:
            raise Refused("no such thing")
        return setting["value"]

    found = search([{"value": value} for value in (-1.0, float("nan"), 2.0)], evaluate, patience=3)
    assert found.best == 2
    assert found.attempts[0].reason == "no such thing" and "not finite" in found.attempts[1].reason
    assert search([{"value": -1.0}], evaluate).best == -1


@pytest.fixture(scope="module")
def tempting(config):
    """Smooth validation subjects, for whom strong smoothing is right, and a test subject full of detail, for whom it is not."""
    pairs = [
        make_pair("denoise", image(subject, split), config["bakeoff"]["denoise"], config["denoise"], 3)
        for subject, split in (("1", "validation"), ("2", "validation"), ("3", "test"))
    ]
    rng = np.random.default_rng(0)
    made = []
    for pair in pairs:
        detail = 150 * rng.normal(size=pair.truth.shape).astype(np.float32)
        smooth = ndimage.gaussian_filter(pair.truth, 4)
        truth = smooth + (detail if pair.split == "test" else 0)
        noisy = truth + 60 * rng.normal(size=truth.shape).astype(np.float32)
        volume = pair.image.volume.with_data(noisy)
        made.append(replace(pair, truth=truth, start=noisy, image=replace(pair.image, opener=lambda volume=volume: volume)))
    return made


def test_validation_subjects_choose_even_where_test_subjects_would_choose_otherwise(config, tempting, tmp_path):
    system = System("denoise", "gaussian", "filter", {})
    found = run_search(system, GRID, material(config, "denoise", tempting, tmp_path), tmp_path)
    assert found.attempts[found.best].settings == {"sigma_mm": 3.0}
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    test = tempting[2]
    weak, strong = (
        measured(test, restorer(changed(system, setting), None, "cpu")(test)(test.image.volume.array()))["psnr"] for setting in GRID
    )
    assert weak > strong + 1, "or test subjects would choose alike"
    assert evaluation["test"] == {"subjects": 1, "value": pytest.approx(strong)}
    assert evaluation["chosen_on"] == {"split": "validation", "subjects": 2}
    assert evaluation["best_so_far_only"] is True
    assert [row["settings"] for row in read_table(tmp_path / "history.tsv")] == [json.dumps(setting) for setting in GRID]


def test_the_same_search_leaves_the_same_bytes(config, tempting, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_search(System("denoise", "gaussian", "filter", {}), GRID, material(config, "denoise", tempting, tmp_path), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert {"noisy", "denoised", "model", "truth"} <= {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()}


def test_without_validation_subjects_nothing_is_searched(config, tempting, tmp_path):
    with pytest.raises(CohortexError, match="validation subjects"):
        run_search(System("denoise", "gaussian", "filter", {}), GRID, material(config, "denoise", tempting[2:], tmp_path), tmp_path)


def test_super_resolution_trains_evaluates_and_refines_and_leaves_all_six_artefacts(config, tmp_path):
    subjects = [image(s, split, (30, 32, 20)) for s, split in (("1", "train"), ("2", "validation"), ("3", "test"))]
    pairs = [make_pair("superresolve", each, config["bakeoff"]["superresolve"], config["superresolve"], 3) for each in subjects[1:]]
    tried = [{"training.steps": 1}, {"training.steps": 2}]
    system = system_named(config, "superresolve", "srcnn3d")
    found = run_search(system, tried, material(config, "superresolve", pairs, tmp_path, subjects[:2]), tmp_path / _made(tmp_path))
    out = tmp_path / "out"
    for folder in ("low_resolution", "denoised", "high_resolution"):
        assert sorted(path.name for path in (out / folder).iterdir()) == ["2_T1w.nii.gz", "3_T1w.nii.gz"]
    rows = read_table(out / "pairs.tsv")
    for row in rows:
        low, truth = read_nifti(out / row["input"]), read_nifti(out / row["truth"])
        high = read_nifti(out / "high_resolution" / f"{row['image']}.nii.gz")
        axis = "xyz".index(row["axis"])
        assert low.shape[axis] * 2 == truth.shape[axis] and high.shape == truth.shape
        np.testing.assert_allclose(high.affine, truth.affine)
    assert {"card.yaml", "model.safetensors"} == {path.name for path in (out / "model").iterdir()}
    evaluation = json.loads((out / "evaluation.json").read_text())
    scores = [attempt["value"] for attempt in evaluation["history"]]
    assert len(scores) == 2 and evaluation["best"]["value"] == max(scores) == evaluation["history"][-1]["best_so_far"]
    assert evaluation["input"] in ("denoised", "as measured") and evaluation["test"]["subjects"] == 1
    assert found.attempts[0].value >= measured(pairs[0], pairs[0].start)["psnr"] - 3


def _made(folder: Path) -> str:
    (folder / "out").mkdir()
    return "out"
