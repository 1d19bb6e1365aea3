"""What of a large cohort is run again, and how a part of it is run: by dry runs over stand-ins, whose outputs are made up."""

import json
import os
import re
import shutil
import time

import pytest

from cohortex.changed import what_reruns
from cohortex.cli import main
from cohortex.config import check_config
from cohortex.runs import read_runs
from cohortex.stages import USUAL, stage_version
from tests.workflow import digests, jobs_run, snakemake, write_cohort

CHAIN = list(USUAL)
SUBJECTS, BATCH = 200, 20


def planned(folder, *arguments, **config):
    """Return how many jobs of each rule a dry run plans, and all that it said."""
    said = snakemake(folder, "-n", *arguments, input=folder / "cohort.tsv", batch_size=BATCH, **config).stdout
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total +\d+$", said, re.MULTILINE | re.DOTALL)
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table.group(1), re.MULTILINE)} if table else {}, said


def add(folder, subjects):
    """Write stand-ins of subjects and their rows in the table."""
    (folder / "scans").mkdir(exist_ok=True)
    with (folder / "cohort.tsv").open("a") as table:
        for subject in subjects:
            (folder / "scans" / f"{subject}.nii.gz").write_bytes(b"stand-in")
            table.write(f"{subject}\tT1w\tscans/{subject}.nii.gz\n")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Return the folder of a run that seems to have been through the whole chain."""
    folder = tmp_path_factory.mktemp("part")
    (folder / "cohort.tsv").write_text("subject\tmodality\tpath\n")
    add(folder, [f"{number:03d}" for number in range(SUBJECTS)])
    count, _ = planned(folder)
    assert count == {**dict.fromkeys(CHAIN, 10), "report": 1, "verdict": 1, "all": 1}
    finish(folder)
    return folder


def finish(folder):
    """Make up what a run would have left of every batch."""
    os.utime(folder / "cohort.tsv", (time.time() - 60, time.time() - 60))
    for table in (folder / "work/cohort/batches").glob("*.tsv"):
        for stage in CHAIN:
            record = folder / "work/records" / stage / table.stem
            record.mkdir(parents=True, exist_ok=True)
            (record / "manifest.tsv").touch()
        exported = folder / "results/.cohortex/exported" / table.stem
        exported.parent.mkdir(parents=True, exist_ok=True)
        exported.touch()
    (folder / "results/report").mkdir(exist_ok=True)
    for name in ("results/report/index.html", "results/manifest.tsv", "work/verdict.txt"):
        (folder / name).touch()


def test_a_finished_cohort_a_new_hundred_and_a_replaced_file(cohort):
    assert planned(cohort)[0] == {}
    add(cohort, [f"n{number:03d}" for number in range(100)])
    assert planned(cohort)[0] == {**dict.fromkeys(CHAIN, 5), "report": 1, "verdict": 1, "all": 1}
    finish(cohort)
    (cohort / "scans" / "045.nii.gz").write_bytes(b"another one")
    count, said = planned(cohort)
    assert count == {**dict.fromkeys(CHAIN, 1), "report": 1, "verdict": 1, "all": 1}
    assert set(re.findall(r"batch=(b\d+)", said)) == {"b00003"}


def test_a_part_of_the_cohort_by_only_by_batch_and_by_until(tmp_path):
    (tmp_path / "cohort.tsv").write_text("subject\tmodality\tpath\n")
    add(tmp_path, [f"{number:03d}" for number in range(SUBJECTS)])
    settings = tmp_path / "only.yaml"
    settings.write_text('only: {subject: ["007", "033"]}\n')
    count, said = planned(tmp_path, "--configfile", str(settings))
    assert count == {**dict.fromkeys(CHAIN, 2), "report": 1, "verdict": 1, "all": 1}
    assert "only: its 2 batches are run, 40 of 200 subjects." in said
    assert set(re.findall(r"batch=(b\d+)", said)) == {"b00001", "b00002"}
    count, said = planned(tmp_path, "batches", "--batch", "batches=2/5")
    assert count == dict.fromkeys(CHAIN, 2)
    assert set(re.findall(r"batch=(b\d+)", said)) == {"b00003", "b00004"}
    assert planned(tmp_path, "--until", "denoise")[0] == dict.fromkeys(CHAIN[:3], 10)


def records(folder, config, batch="b00001"):
    """Write the numbers of a batch that has been through the chain with a configuration."""
    for stage in config["stages"]:
        path = folder / "work/records" / stage / batch / "numbers.json"
        path.parent.mkdir(parents=True)
        section = dict(config[stage])
        path.write_text(json.dumps({"version": stage_version(stage), "section": section, "models": {}}))


def test_the_sentence_on_what_runs_again_names_the_stage_that_should_be_kept(tmp_path):
    chain = ["acquire", "preprocess", "denoise", "export"]
    given = {"work": str(tmp_path / "work"), "output": str(tmp_path / "results"), "stages": chain}
    records(tmp_path, check_config(given))
    assert list(what_reruns(check_config(given), {}, ["b00001"])) == []
    other = check_config({**given, "denoise": {"default": {"strength": 0.5}}})
    (said,) = what_reruns(other, {}, ["b00001"])
    assert said == (
        "denoise has other settings since the last run, so its batches run again from acquire on, because the volumes of preprocess, which "
        "it reads, were not kept. With keep: [preprocess] another change of denoise would run again from denoise on only."
    )
    (tmp_path / "work/acquire/b00001").mkdir(parents=True)
    (said,) = what_reruns(other, {}, ["b00001"])
    assert "run again from preprocess on, because" in said
    (tmp_path / "work/preprocess/b00001").mkdir(parents=True)
    (said,) = what_reruns(other, {}, ["b00001"])
    assert said.endswith("run again from denoise on; the volumes of preprocess, which it reads, were kept.")
    (tmp_path / "work/records/denoise/b00001/numbers.json").unlink()
    (said,) = what_reruns(check_config(given), {}, ["b00001"])
    assert said.startswith("denoise has no record since the last run")


def test_a_part_is_run_for_real_then_the_rest_and_a_late_setting_runs_again_from_there(tmp_path, capsys):
    config = {"input": write_cohort(tmp_path, ["1", "2"]), "batch_size": 1, "stages": "[acquire,preprocess,export]", "user": "tester"}
    kept, other = tmp_path / "kept.yaml", tmp_path / "other.yaml"
    kept.write_text("keep: [preprocess]\n")
    other.write_text("keep: [preprocess]\nexport: {default: {desc: other}}\n")
    part = tmp_path / "part.yaml"
    part.write_text('keep: [preprocess]\nonly: {subject: ["1"]}\n')
    run = tmp_path / "run"

    def once(*arguments):
        return snakemake(run, *arguments, **config).stdout

    chain = {"acquire": 1, "preprocess": 1, "export": 1, "report": 1, "verdict": 1, "all": 1}
    assert jobs_run(once("--configfile", str(part))) == chain
    assert "1 image of 1 batch that no run has finished are not told of" in (run / "results/report/index.html").read_text()
    first = digests(run / "results" / "sub-1")
    assert jobs_run(once("--configfile", str(kept))) == chain, "the other batch alone, and a report of both"
    assert digests(run / "results" / "sub-1") == first and (run / "results" / "sub-2").is_dir()

    # the runs told of themselves
    latest, before = read_runs(run / "work")
    assert (latest["exit"], latest["user"], latest["images"], latest["batches"]) == ("success", "tester", {"ok": 2}, 2)
    assert (before["exit"], before["images"], before["batches"], before["cohort_batches"]) == ("success", {"ok": 1}, 1, 2)
    assert latest["seconds"] > 0 and latest["config"]["keep"] == ["preprocess"] and latest["config_sha256"] != before["config_sha256"]
    assert latest["software"]["snakemake"] and latest["ended"] > latest["started"] > before["ended"]
    assert main(["status", str(run / "work")]) == 0
    assert re.search(r"last run: begun .* UTC by tester on .*; went through after \d+ s: 2 ok", capsys.readouterr().out)
    assert "tester on" in (run / "results/report/index.html").read_text()

    said = once("-n", "--configfile", str(other))
    assert jobs_run(said) == {"export": 2, "report": 1, "verdict": 1, "all": 1}
    assert "export has other settings since the last run, so its batches run again from export on" in said
    shutil.rmtree(run / "work" / "preprocess")
    said = once("-n", "--configfile", str(other))
    assert jobs_run(said) == {"acquire": 2, "preprocess": 2, "export": 2, "report": 1, "verdict": 1, "all": 1}
    assert "run again from acquire on, because the volumes of preprocess, which it reads, were not kept" in said
