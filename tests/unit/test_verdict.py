"""The verdict counts images, names what was set aside, and fails only beyond what is tolerated."""

import json
import shutil
from types import SimpleNamespace

import pytest

from cohortex.publish import write_text
from cohortex.verdict import verdict
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_fake_cohort(tmp_path_factory.mktemp("plain") / "work", pictures=False)


def tolerate(share):
    return CONFIG | {"quarantine": {"tolerate": share}}


def test_within_tolerance_it_is_fine_and_exactly_what_was_set_aside_is_named(plain):
    fine, sentence = verdict(plain, tolerate(0.125), STAGES)
    assert fine
    assert sentence.startswith("2 of 16 images (12.5 %) were set aside, within the 12.5 % tolerated")
    assert "Set aside: 002_CT (preprocess: missing-slices), 003_T1w (denoise: process-died)." in sentence
    assert sentence.endswith("See results/report/index.html.")


def test_beyond_tolerance_it_fails(plain):
    fine, sentence = verdict(plain, tolerate(0.12), STAGES)
    assert not fine
    assert sentence.startswith("Too much was set aside: 2 of 16 images")


def test_skipped_and_warned_images_do_not_count(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=1, pictures=False)
    fine, sentence = verdict(work, tolerate(0), STAGES)
    assert fine
    assert sentence.startswith("No image was set aside: 2 images of 2")


def test_only_the_first_twenty_are_named(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=40, pictures=False)
    for manifest in (work / "records" / "export").glob("*/manifest.tsv"):
        write_text(manifest, manifest.read_text(encoding="utf-8").replace("\timage\tCT\thead\tok\t\t", "\timage\tCT\thead\tfailed\tdisk\t"))
    _, sentence = verdict(work, tolerate(1), STAGES)
    assert "41 of 80 images" in sentence
    assert sentence.count("_CT (") + sentence.count("_T1w (") == 20
    assert "and 21 more" in sentence


def test_an_image_without_a_record_counts_as_failed(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    shutil.rmtree(work / "records" / "export" / "b0001")
    fine, sentence = verdict(work, CONFIG, STAGES)
    assert not fine
    assert "10 of 16 images" in sentence
    assert "005_CT (export: no-record)" in sentence


def test_a_mask_that_was_set_aside_is_named_but_does_not_count(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    table = work / "cohort" / "cohort.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    mask = lines[1].replace("001_T1w", "001_T1w+mask").replace("\timage\t", "\tmask\t")
    write_text(table, "\n".join([*lines, mask]) + "\n")
    manifest = work / "records" / "acquire" / "b0000" / "manifest.tsv"
    columns, first, *rest = manifest.read_text(encoding="utf-8").splitlines()
    bad = (
        first.replace("001_CT", "001_T1w+mask")
        .replace("\timage\timage\t", "\tlabels\tmask\t")
        .replace("\tok\t\t", "\tquarantined\twrong-grid\t")
    )
    write_text(manifest, "\n".join([columns, bad, first, *rest]) + "\n")
    fine, sentence = verdict(work, tolerate(0.125), STAGES)
    assert fine
    assert "2 of 16 images" in sentence
    assert "001_T1w+mask (acquire: wrong-grid)" in sentence


def test_labels_derived_from_an_image_that_crashed_are_not_named_twice(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    manifest = work / "records" / "export" / "b0000" / "manifest.tsv"
    write_text(
        manifest,
        "\n".join(line.replace("\tok\t", "\tcrashed\t") if "001_CT" in line else line for line in manifest.read_text().splitlines()) + "\n",
    )
    _, sentence = verdict(work, CONFIG, STAGES)
    assert "3 of 16 images" in sentence
    assert "001_CT+seg" not in sentence


def test_no_image_at_all_is_not_fine(tmp_path):
    fine, sentence = verdict(tmp_path, CONFIG, STAGES)
    assert not fine
    assert "The cohort holds no image" in sentence


@pytest.mark.parametrize(("share", "fine"), [(0.5, True), (0.0, False)])
def test_the_script_writes_its_sentence_or_ends_with_it(plain, tmp_path, root, share, fine):
    config = tolerate(share) | {"work": str(plain)}
    told = tmp_path / "verdict.txt"
    snakemake = SimpleNamespace(input=[], params=SimpleNamespace(config=json.dumps(config)), output=[str(told)])
    code = compile((root / "scripts" / "verdict.py").read_text(encoding="utf-8"), "verdict.py", "exec")
    if fine:
        exec(code, {"snakemake": snakemake})
        assert "within the 50 % tolerated" in told.read_text(encoding="utf-8")
    else:
        with pytest.raises(SystemExit, match="Too much was set aside"):
            exec(code, {"snakemake": snakemake})
        assert not told.exists()
