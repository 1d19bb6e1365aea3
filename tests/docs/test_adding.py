"""The pages on adding something, followed to the letter in a copy of the repository; and what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK

from cohortex.tables import read_table
from tests.docs.pages import ROOT, blocks, changed, copy_repository, follow, steps
from tests.workflow import environment, phantom

PAGES = {name: ROOT / "docs" / "adding" / f"{name}.md" for name in ("stage", "network", "format", "filter")}
SETTINGS = """\
stages: [acquire, preprocess, denoise, deblur, export]
keep: [deblur]
body_part: head
preprocess: {default: {bias_field: false, filters: [{bilateral: {}}]}}
denoise:
  default:
    method: residual_cnn
    weights: train
    training: {steps: 3, batch: 2, patch: 16, options: {filters: 4, depth: 3}}
"""
"""A chain with everything new in it."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the repository in which all pages were followed."""
    folder = copy_repository(tmp_path_factory.mktemp("adding") / "cohortex")
    touched = [path for page in PAGES.values() for path in follow(page, folder)]
    (folder / "touched.json").write_text(json.dumps(sorted({str(path.relative_to(folder)) for path in touched})))
    return folder


def python(copy: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=copy,
        env={**environment(), "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def run(copy, tmp_path_factory):
    """Run a cohort of three subjects, whose scans are in the new format, through the new stage, filter and network."""
    folder = tmp_path_factory.mktemp("study")
    rows = ["subject\tmodality\tpath\tsplit"]
    for number, split in enumerate(("train", "validation", "test")):
        image = SimpleITK.GetImageFromArray(phantom(number).T)
        image.SetSpacing((1.5, 1.5, 3.0))
        SimpleITK.WriteImage(image, folder / f"{number}.vtk")
        rows.append(f"{number}\tT1w\t{number}.vtk\t{split}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    (folder / "settings.yaml").write_text(SETTINGS)
    words = ["snakemake", "--snakefile", str(copy / "Snakefile"), "--profile", str(copy / "profiles" / "local"), "--cores", "2"]
    words += ["--directory", str(folder), "--configfile", str(folder / "settings.yaml"), "--config", f"input={folder / 'cohort.tsv'}"]
    python(copy, *words)
    return folder


def rows_of(run: Path, stage: str) -> list[dict[str, str]]:
    return [row for row in read_table(run / "work" / "records" / stage / "b00001" / "manifest.tsv") if row["kind"] == "image"]


def test_the_new_format_is_read_by_acquire(run):
    rows = rows_of(run, "acquire")
    assert [(row["status"], row["code"], row["shape"]) for row in rows] == [("warned", "orientation-assumed", "40x44x20")] * 3


def test_the_new_filter_is_used_by_preprocess(run):
    assert all(row["status"] == "ok" and float(row["edge_loss_share"]) for row in rows_of(run, "preprocess"))
    sidecar = json.loads((run / "results" / "sub-2" / "anat" / "sub-2_desc-cohortex_T1w.json").read_text())
    assert "bilateral" in json.dumps(sidecar)


def test_the_new_network_is_trained_and_used_by_its_stage(run):
    assert [row["method"] for row in rows_of(run, "denoise")] == ["residual_cnn"] * 3
    assert "network: residual_cnn" in (run / "work" / "models" / "denoise" / "card.yaml").read_text()


def test_the_new_stage_runs_in_the_workflow_and_its_results_are_exported(run):
    rows = rows_of(run, "deblur")
    assert all(row["status"] == "ok" and row["sharpness_per_mm_after"] != row["sharpness_per_mm_before"] for row in rows)
    assert len(list((run / "work" / "deblur" / "b00001").glob("*.ozx"))) == 3
    assert len(list((run / "results").glob("sub-*/anat/*_desc-cohortex_T1w.nii.gz"))) == 3
    page = (run / "results" / "report" / "index.html").read_text()
    assert "Makes edges steeper." in page and "sharpened by an unsharp mask" in page


def test_the_tests_that_the_pages_show_and_those_that_notice_what_was_forgotten_pass(copy):
    own = [name for name in json.loads((copy / "touched.json").read_text()) if name.startswith("tests/unit/")]
    shared = ["config", "environments", "models_registry", "preprocess", "filters", "denoise_networks"]
    files = sorted({*own, *(f"tests/unit/test_{name}.py" for name in shared)})
    chosen = "deblur or bilateral or vtk or residual_cnn or the_schema or shipped_config or shipped_section"
    chosen += " or page_on_models or every_network_is_tried or unique or table_of_contents or every_rule"
    said = python(copy, "pytest", "-q", "-p", "no:cacheprovider", "-k", f"({chosen}) and not few_steps", *files)
    assert " passed" in said and "failed" not in said


def test_what_the_pages_show_passes_the_linters(copy):
    names = [name for name in json.loads((copy / "touched.json").read_text()) if name.endswith(".py")]
    python(copy, "ruff", "check", "--no-cache", *names)
    python(copy, "ruff", "format", "--no-cache", "--check", *names)
    python(copy, "snakefmt", "--check", "rules/deblur.smk", "Snakefile")


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_code_of_a_page_is_a_step(name):
    taken = [text for _, _, text in steps(PAGES[name])]
    shown = [block.text for block in blocks(PAGES[name]) if block.language not in ("sh", "text", "")]
    assert shown == taken and len(taken) > 3


def test_a_page_that_no_longer_fits_the_code_is_told_with_the_lines():
    assert changed("a\nb\nc\n", " a...\n+x\n-b\n", "f") == "a\nx\nc\n"
    with pytest.raises(AssertionError, match=r"f: these lines stand 0 times(.|\n)*z"):
        changed("a\nb\n", " z\n+x\n", "f")
    with pytest.raises(AssertionError, match="2 times"):
        changed("a\na\n", " a\n+x\n", "f")
