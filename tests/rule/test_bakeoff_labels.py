"""`snakemake bakeoff_segment` and `snakemake bakeoff_regseg` for real, on small heads with labels and a few steps."""

import numpy as np
import pytest
import yaml

from cohortex.tables import read_table
from tests.workflow import jobs_run, snakemake, write_nifti

SPLITS = {"1": "train", "2": "validation", "3": "test", "4": "test"}
PLANNED = {"planned_unet": {"training": {"options": {"features": [4, 6], "kernels": [], "strides": []}, "rate": 1e-2}}}
SETTINGS = {
    "stages": ["acquire", "regseg", "export"],
    "keep": ["acquire"],
    "bakeoff": {
        "segment": {
            "candidates": [PLANNED],
            "modality": "T1w",
            "labels": {"1": "outer", "2": "core", "3": "front"},
            "training": {"steps": 30, "minutes": 5, "batch": 2, "patch": 16},
            "edge": 32,
        },
        "regseg": {
            "candidates": [],
            "baselines": [{"gauss_newton": {"deformable": {"gauss_newton": {"spacing_mm": 5, "symmetric": True}}}}],
        },
    },
}


def head(seed, moved):
    """Return a ball with two cores on voxels of 4 mm as T1w and CT have it, and its labels; what is in it moves a little with `moved`."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[4.0 * np.arange(n) for n in (36, 40, 34)], indexing="ij"))
    away = grid - np.array([70.0, 78.0, 66.0]).reshape(3, 1, 1, 1)
    outer = (away**2 / np.array([52.0, 64.0, 54.0]).reshape(3, 1, 1, 1) ** 2).sum(0) < 1
    middle = np.array([14.0, 18.0, 8.0]) + moved + rng.uniform(-3, 3, 3)
    core = ((away - middle.reshape(3, 1, 1, 1)) ** 2).sum(0) < 20**2
    front = ((away - np.array([-16.0, -26.0, 4.0]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 15**2
    labels = (outer.astype(np.uint8) + core + 2 * (front & ~core)).astype(np.uint8)
    images = {
        "T1w": np.array([0.0, 300.0, 120.0, 210.0])[labels] + rng.normal(0, 6, labels.shape),
        "CT": np.array([-1000.0, 20.0, 60.0, 90.0])[labels] + rng.normal(0, 3, labels.shape),
    }
    return {name: image.astype(np.float32) for name, image in images.items()}, labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bakeoff")
    rows = ["subject\tmodality\tpath\tbody_part\tsplit\trole"]
    for subject, split in SPLITS.items():
        for modality, moved in (("T1w", 0.0), ("CT", 4.0)):
            images, labels = head(int(subject), moved)
            if (subject, modality) == ("4", "T1w"):
                labels = np.where(labels == 3, 9, labels).astype(np.uint8)
            for role, array in (("image", images[modality]), ("labels", labels)):
                write_nifti(folder / "scans" / f"{subject}_{modality}_{role}.nii.gz", array, (4.0, 4.0, 4.0))
                rows.append(f"{subject}\t{modality}\tscans/{subject}_{modality}_{role}.nii.gz\thead\t{split}\t{role}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    done = snakemake(folder, "bakeoff_segment", "bakeoff_regseg", "--configfile", str(folder / "settings.yaml"), input="cohort.tsv")
    more = SETTINGS["bakeoff"]["segment"] | {"candidates": [PLANNED, "enet"]}
    (folder / "more.yaml").write_text(yaml.safe_dump(SETTINGS | {"bakeoff": {**SETTINGS["bakeoff"], "segment": more}}))
    again = snakemake(folder, "-n", "bakeoff_segment", "--configfile", str(folder / "more.yaml"), input="cohort.tsv")
    return folder, jobs_run(done.stdout), jobs_run(again.stdout)


def test_every_system_is_trained_and_scored_by_a_job_of_its_own(run):
    assert run[1] == {"acquire": 1, "bakeoff_train": 1, "bakeoff_score": 3, "bakeoff_page": 2, "bakeoff_segment": 1, "bakeoff_regseg": 1}


def test_a_further_candidate_leaves_the_others_as_they_are(run):
    assert run[2] == {"bakeoff_train": 1, "bakeoff_score": 1, "bakeoff_page": 1, "bakeoff_segment": 1}


def test_the_baseline_has_every_figure_of_the_segmentation(run):
    folder = run[0] / "results" / "bakeoff" / "segment"
    (row,) = read_table(folder / "leaderboard.tsv")
    assert (row["system"], row["status"], row["chosen"]) == ("planned_unet", "ok", "yes"), "it runs unasked"
    assert (row["split"], row["subjects"], row["images"]) == ("test", "1", "1"), "the other has a label without a name"
    assert 0.25 < float(row["dice"]) < 1 and 0 < float(row["iou"]) < float(row["dice"])
    assert float(row["hd95"]) >= float(row["asd"]) > 0 and 0 < float(row["recall"]) < 1 and 0 < float(row["precision"]) < 1
    assert float(row["dice_outer"]) > 0.5 and 0 < int(row["parameters"]) < 20_000
    assert float(row["cpu_s_scan"]) > 0 and row["steps_done"] == "30"
    words = (folder / "leaderboard.md").read_text()
    assert "4_T1w: its labels have the value 9, which bakeoff.segment.labels does not name; it names 1, 2, 3" in words
    assert (folder / "pictures" / "compared.png").stat().st_size > 1000


def test_the_registrations_have_their_figures_on_pairs_of_test_subjects(run):
    folder = run[0] / "results" / "bakeoff" / "regseg"
    rows = {row["system"]: row for row in read_table(folder / "leaderboard.tsv")}
    assert set(rows) == {"affine", "gauss_newton"}
    assert [(row["status"], row["images"], row["split"]) for row in rows.values()] == [("ok", "2", "test")] * 2
    affine, newton = rows["affine"], rows["gauss_newton"]
    assert float(newton["labels_dice"]) > float(affine["labels_dice"]) > 0.5
    assert float(affine["folding_percent"]) == 0 and float(affine["jacobian_min"]) == 1 > float(newton["jacobian_min"]) > 0
    assert 0 <= float(newton["consistency_mm"]) < 2 and affine["consistency_mm"] == ""
    assert float(newton["dice_grey_matter"]) > float(affine["dice_grey_matter"]), "the core moved"
    assert float(newton["cpu_s_pair"]) > 0 and newton["parameters"] == ""
    assert "Dice of each label that was carried over" in (folder / "leaderboard.md").read_text()
    assert (folder / "pictures" / "compared.png").stat().st_size > 2000
    assert '<h2 id="labels-head">Labels</h2>' in (folder / "index.html").read_text()
