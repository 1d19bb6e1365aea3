"""`snakemake bakeoff_denoise` for real: two candidates, of which one is ruined by its learning rate, on four tiny subjects."""

import json

import pytest
import yaml

from cohortex.tables import read_table
from tests.workflow import jobs_run, phantom, snakemake, write_nifti

SPLITS = {"1": "train", "2": "validation", "3": "test", "4": "test"}
TINY = {"method": "redcnn", "training": {"batch": 1, "patch": 28, "filters": 4}}
SETTINGS = {
    "stages": ["acquire", "denoise", "export"],
    "bakeoff": {
        "denoise": {
            "candidates": [{"tiny": TINY}, {"ruined": {**TINY, "training": {**TINY["training"], "rate": 1e30}}}],
            "baselines": ["transform"],
            "training": {"steps": 3, "minutes": 5},
            "edge": 40,
            "lesions": {"diameters_mm": [6], "contrasts": [4], "each": 1},
            "adjust": {"system": "transform", "grid": {"strength": [0.8, 1.0]}},
        }
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bakeoff")
    rows = ["subject\tmodality\tpath\tbody_part\tsplit"]
    for subject, split in SPLITS.items():
        write_nifti(folder / "scans" / f"{subject}.nii.gz", phantom(int(subject), (36, 38, 20)), (1.5, 1.5, 1.5))
        rows.append(f"{subject}\tT1w\tscans/{subject}.nii.gz\thead\t{split}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = ("bakeoff_denoise", "--configfile", str(folder / "settings.yaml"))
    first = snakemake(folder, *given, input="cohort.tsv")
    again = snakemake(folder, "-n", *given, input="cohort.tsv")
    return folder, jobs_run(first.stdout), jobs_run(again.stdout)


def test_without_training_subjects_it_is_refused_before_any_job(tmp_path):
    done = snakemake(tmp_path, "bakeoff_denoise", check=False)
    assert done.returncode != 0 and jobs_run(done.stdout) == {}
    assert "the bake-off of denoise trains redcnn, but the cohort has no training subjects" in done.stdout


def test_every_system_is_trained_and_scored_by_a_job_of_its_own(run):
    assert run[1] == {
        "acquire": 1,
        "bakeoff_train": 2,
        "bakeoff_score": 4,
        "bakeoff_adjust": 1,
        "bakeoff_page": 1,
        "bakeoff_denoise": 1,
    }
    assert run[2] == {}, "nothing is left to do"


def test_the_leaderboard_has_a_row_of_figures_for_every_system_and_says_which_failed(run):
    rows = {row["system"]: row for row in read_table(run[0] / "results" / "bakeoff" / "denoise" / "leaderboard.tsv")}
    assert set(rows) == {"noisy", "transform", "tiny", "ruined"}
    assert rows["ruined"]["status"] == "failed" and rows["ruined"]["reason"]
    for name in ("noisy", "transform", "tiny"):
        assert (rows[name]["status"], rows[name]["split"], rows[name]["subjects"]) == ("ok", "test", "2")
        assert float(rows[name]["psnr"]) > 15 and 0 < float(rows[name]["ms_ssim"]) < 1
    tiny = rows["tiny"]
    assert (tiny["steps"], tiny["steps_done"], tiny["parameters"], tiny["threads"]) == ("3", "3", "3437", "1")
    assert float(tiny["psnr_low"]) <= float(tiny["psnr_gain"]) <= float(tiny["psnr_high"]) < 0, "against the transform"
    assert float(tiny["training_cpu_s"]) > 0 and float(tiny["cpu_s_megavoxel"]) > 0
    assert float(rows["noisy"]["recovery_6mm_4"]) == pytest.approx(1, abs=0.02) and rows["transform"]["psnr_gain"] == ""
    chosen = [name for name, row in rows.items() if row["chosen"]]
    best = max((row for row in rows.values() if row["validation_psnr"]), key=lambda row: float(row["validation_psnr"]))
    assert chosen == [best["system"]] == ["transform"]


def test_it_leaves_pages_pictures_and_the_search_of_settings_and_is_trained_on_training_subjects_only(run):
    folder = run[0] / "results" / "bakeoff" / "denoise"
    assert (folder / "pictures" / "compared.png").stat().st_size > 2000
    assert "ruined" in (folder / "index.html").read_text() and "failed" in (folder / "leaderboard.md").read_text()
    assert json.loads((folder / "adjust" / "evaluation.json").read_text())["best"]["settings"].keys() == {"strength"}
    card = yaml.safe_load((run[0] / "work" / "bakeoff" / "denoise" / "models" / "tiny" / "model" / "card.yaml").read_text())
    assert card["subjects"] == {"train": ["1"], "validation": ["2"]}
    assert {row["split"] for row in read_table(run[0] / "work" / "bakeoff" / "denoise" / "scores" / "tiny" / "measures.tsv")} == {
        "validation",
        "test",
    }
    assert not list(run[0].rglob(".*.tmp")) and not (run[0] / "work" / "training" / "bakeoff-denoise-tiny").exists()
