"""Runs on a real Slurm: whatever dies, the results are those of an undisturbed run on one machine, and no wait is without a word.

The tests share runs, since most of their time is waiting.
"""

import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from cohortex.config import check_config
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.models.folder import read_card
from cohortex.stage import run_job
from cohortex.stages.denoise import denoise
from cohortex.tables import read_table
from cohortex.volume import Volume
from tests.rule.test_train import cohort as write_training_cohort
from tests.slurm.cluster import wait_for
from tests.slurm.runs import CHAIN, Run, command, signalled, site_profile
from tests.unit.test_stage import job  # noqa: F401
from tests.workflow import ROOT, digests, environment, snakemake, write_cohort

BATCHES = ["b00001", "b00002", "b00003"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Return the table of three subjects."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), ["1", "2", "3"])


def settings(cohort: Path) -> dict[str, object]:
    return {"input": cohort, "batch_size": 1, "stages": CHAIN}


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    """Return the folder of the same cohort after a run on this machine alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    snakemake(folder, **settings(cohort))
    return folder


ACQUIRED = [f"work/records/acquire/{batch}" for batch in BATCHES]
"""As targets: no more than the first stage, which is enough to see what happens to jobs."""


def same_records(folder: Path, other: Path, stage: str) -> None:
    assert digests(folder / "work" / "records" / stage) == digests(other / "work" / "records" / stage)


def same(folder: Path, other: Path) -> None:
    assert digests(folder / "results") == digests(other / "results")
    assert digests(folder / "work" / "records") == digests(other / "work" / "records")


# --- the demo, as a user types it ---------------------------------------------------------------------------------


def root(folder: Path) -> Path:
    """Return a copy of the repository with a demo of one subject, and a profile that looks at the queue every second."""
    folder.mkdir()
    for name in ("Snakefile", "config.yaml", "rules", "scripts", "profiles", "slurm", "local", "cohortex", "schemas", "envs", "zoo"):
        source = ROOT / name
        if source.is_symlink():
            (folder / name).symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    for file, pattern, new in (
        ("config.yaml", r"(?m)^  subjects: \d+$", "  subjects: 1"),
        ("profiles/slurm/profile.v9+.yaml", r"(slurm-init-seconds-before-status-checks): \d+", r"\1: 1"),
        ("profiles/slurm/profile.v9+.yaml", r"(latency-wait): \d+", r"\1: 10"),
    ):
        text, count = re.subn(pattern, new, (folder / file).read_text())
        assert count == 1
        (folder / file).write_text(text)
    return folder


@pytest.fixture(scope="module")
def demo(slurm, tmp_path_factory):
    """Begin the demo on Slurm; the tests that need no quiet Slurm run meanwhile."""
    run = Run(root(tmp_path_factory.mktemp("demo") / "root"), ["snakemake", "--profile", "slurm"])
    yield run
    run.kill()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_can_never_run_is_refused_before_the_first_job_naming_what_to_change(demo, cohort, tmp_path):
    asked = {
        "acquire": {"mem_mb": 9000},
        "export": {"gpu": 1},
        "report": {"runtime": 600},
        "verdict": {"slurm_partition": "cpuu"},
    }
    run = Run(tmp_path, command(site_profile(tmp_path / "site", **asked), **settings(cohort)))
    assert run.ends() != 0
    sentences = run.said[run.said.index("cohortex: ") :]
    for words in (
        "acquire of b00001 asks for 9000 MB, the largest node of partition cpu has 6000 MB: lower blocks.memory_mb",
        "export of b00001 asks for 1 GPU, and no node of partition cpu has so many: --set-resources export:slurm_partition=gpu",
        "report asks for 600 minutes, partition cpu gives 60 at most: lower batch_size",
        "verdict is to run in partition cpuu, but those of this Slurm are cpu, gpu, paid, rush: correct slurm_partition",
    ):
        assert words in sentences
    assert "Traceback" not in run.said and "submitted" not in run.said
    assert not (run.work / "owner.json").exists(), "a run that is refused owns nothing"


def test_a_site_that_wants_an_account_says_so_in_plain_words(demo, cohort, tmp_path):
    site = site_profile(tmp_path / "site", acquire={"slurm_partition": "paid"})
    run = Run(tmp_path, command(site, "--retries", "0", **settings(cohort)))
    assert run.ends() != 0
    assert "acquire could not be submitted: this site wants an account" in run.said
    assert "slurm_account=NAME in default-resources" in run.said


def mounted(folder: Path, options: str) -> bool:
    """Mount a small file system of its own on a folder; say whether that is allowed here."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode == 0


def fill(file: Path) -> None:
    """Write a file until the disk is full."""
    with file.open("wb", buffering=0) as other, suppress(OSError):
        while True:
            other.write(bytes(2**12))


def test_an_output_that_cannot_be_written_is_refused_naming_it(demo, cohort, tmp_path):
    if not mounted(tmp_path / "full", "ro,size=1m"):
        pytest.skip("nothing may be mounted here")
    try:
        run = Run(tmp_path, command(site_profile(tmp_path / "site"), **settings(cohort), output=tmp_path / "full" / "results"))
        assert run.ends() != 0
        sentence = run.said[run.said.index("cohortex: ") :]
        assert re.search(
            r"output: nothing can be written in \S+/full \(its file system is mounted read-only\); give another output", sentence
        )
        assert "submitted" not in run.said
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "full")], check=True)


def test_a_work_folder_on_a_full_disk_is_refused_before_the_first_job(slurm, cohort, tmp_path):
    if not mounted(tmp_path / "full", "size=1m"):
        pytest.skip("nothing may be mounted here")
    fill(tmp_path / "full" / "other")
    try:
        run = Run(tmp_path, command(site_profile(tmp_path / "site"), **settings(cohort), work=tmp_path / "full" / "work"))
        assert run.ends() != 0
        assert re.search(r"^cohortex: the disk of \S+/full/work is full; free some of it or give another folder", run.said, re.MULTILINE)
        assert "submitted" not in run.said and "Traceback" not in run.said
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "full")], check=True)


def test_a_disk_that_runs_full_ends_the_run_with_what_to_change(slurm, demo, cohort, tmp_path):
    if not mounted(tmp_path / "small", "size=30m"):
        pytest.skip("nothing may be mounted here")
    work = tmp_path / "small" / "work"
    try:
        run = Run(tmp_path, command(site_profile(tmp_path / "site"), "--retries", "0", **settings(cohort), work=work))
        run.says("has been submitted")
        fill(tmp_path / "small" / "other")
        assert run.ends() != 0
        logs = "".join(log.read_text() for log in (tmp_path / ".snakemake" / "slurm_logs").rglob("*.log"))
        assert re.search(r"the disk of \S+/small/\S+ is full; free some of it", run.said + logs), (run.said, logs)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "small")], check=True)


# --- one training, several nodes ----------------------------------------------------------------------------------


def test_a_training_on_two_nodes_that_is_warned_of_its_time_limit_goes_on_at_its_checkpoint_to_the_same_weights(slurm, tmp_path):
    table, steps = write_training_cohort(tmp_path / "cohort"), 300
    training = {"steps": steps, "batch": 2, "patch": 28, "filters": 4}
    settings = {
        "stages": ["acquire", "denoise", "export"],
        "denoise": {"default": {"method": "redcnn", "weights": "train", "training": training}},
        "training": {"processes": 2},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    given = ("work/models/denoise", "--configfile", str(tmp_path / "settings.yaml"), "--set-threads")
    # 100 s before the end: Slurm looks at time limits every half minute
    asked = {"nodes": 2, "tasks": 2, "mem_mb": 1500, "slurm_extra": "\"'--signal=USR1@100'\""}
    run = Run(tmp_path / "slurm", command(site_profile(tmp_path / "site", train=asked), *given, "train=1", input=table))
    try:
        members = run.hold_training(steps // 20, steps)
        assert {member.node for member in members} == {"c1", "c2"} and len(members) == 2
        (job,) = {member.job for member in members}
        minutes = int(slurm.ask("squeue", "-h", "-j", job, "-o", "%M").replace("-", ":").split(":")[-2]) + 2
        slurm.ask("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")
        wait_for(lambda: all(signalled(member.pid, signal.SIGUSR1) for member in members), 90, "Slurm warns all processes")
        for member in members:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(member.pid).resume()
        assert run.ends() == 0, run.said[-6000:]
    finally:
        run.kill()
    warned = (run.folder / ".snakemake" / "slurm_logs" / "rule_train" / "denoise" / f"{job}.log").read_text()
    again = (run.work / "logs" / "train" / "denoise.log").read_text()
    assert re.search(rf"stopped at training: step \d+ of {steps}, since it was asked to \(SIGUSR1\).*the next attempt", warned)
    assert "goes on from its checkpoint" in again and f"step {steps} of {steps}" in again
    assert f"step {steps // 20} of {steps}" not in again, "no step was taken twice"
    assert slurm.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T") == "FAILED", "it ended by itself before its limit"
    # the same number of processes, and one thread for each
    snakemake(tmp_path / "local", *given, "train=2", input=table)
    models = [folder / "work" / "models" / "denoise" for folder in (run.folder, tmp_path / "local")]
    files = digests(models[0])
    assert files.keys() == digests(models[1]).keys()
    assert {name for name, digest in digests(models[1]).items() if digest != files[name]} == {"card.yaml"}
    card, undisturbed = map(read_card, models)
    assert (card["recipe"]["run"].pop("resumed"), undisturbed["recipe"]["run"].pop("resumed")) == (1, 0)
    assert card == undisturbed and card["recipe"]["run"]["processes"] == 2


# --- one volume, several nodes ------------------------------------------------------------------------------------


def test_one_volume_on_workers_that_slurm_starts_is_that_of_one_process(slurm, demo, job, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
    data = np.random.default_rng(0).normal(100, 10, (140, 70, 66)).astype(np.float32)
    large = Volume(data, np.diag([1.0, 1, 2, 1]), "T1w")
    write_ozx(job.before / "001_T1w.ozx", large)
    here = replace(job, stage="denoise", section=check_config({})["denoise"], blocks={"memory_mb": 1, "scheduler": "threads"})
    there = replace(
        here,
        images=tmp_path / "there",
        record=tmp_path / "record",
        running=tmp_path / "running",
        blocks={"memory_mb": 1, "scheduler": "slurm", "workers": 2, "minutes": 5},
    )
    run_job(here, denoise)
    run_job(there, denoise)
    rows = {row["image"]: row for row in read_table(there.record / "manifest.tsv")}
    assert rows["001_T1w"]["path"] == "001_T1w.ome.zarr", "several machines wrote it"
    assert rows["1_T1w"]["path"] == "1_T1w.ozx"
    assert {name: row["sha256"] for name, row in rows.items()} == {
        row["image"]: row["sha256"] for row in read_table(here.record / "manifest.tsv")
    }
    made = read_ozx(there.images / "001_T1w.ome.zarr")
    assert np.array_equal(made.array(), read_ozx(here.images / "001_T1w.ozx").array())
    assert not np.array_equal(made.array(), data)
    names = slurm.ask("squeue", "-h", "-t", "all", "-o", "%j").splitlines()
    assert names.count("dask-worker") >= 2


def test_the_demo_on_slurm_gives_the_results_of_the_demo_on_this_machine(demo, tmp_path):
    local = root(tmp_path / "root")
    done = subprocess.run(["snakemake", "--profile", "local", "--cores", "2"], cwd=local, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert demo.ends() == 0, demo.said[-6000:]
    assert (demo.folder / "results" / "report" / "index.html").is_file()
    assert (demo.work / "verdict.txt").read_text()
    same(demo.folder, local)
    assert not (demo.work / ".slurm_runs").exists(), "no job is left to be looked for"


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(slurm, cohort, tmp_path_factory):
    """Run the cohort while a job is cancelled, one runs out of time, a node dies, the controller dies, a job is preempted and one is
    too large for its memory; return the run and what was seen."""
    folder = tmp_path_factory.mktemp("faults")
    site = site_profile(
        folder / "site",
        export={"slurm_partition": "gpu", "gpu": 1},
        # less than Snakemake alone takes, and then more than enough
        report={"mem_mb": "attempt ** 3 * 100"},
    )
    run = Run(folder, command(site, **settings(cohort)))
    seen = {}
    try:
        jobs = {batch: run.hold("acquire", batch) for batch in BATCHES}
        nodes = [job.node for job in jobs.values()]
        # jobs go to the emptier node, so one is alone on its own
        roles = dict(zip(sorted(BATCHES, key=lambda batch: nodes.count(jobs[batch].node)), ("lost", "late", "cancelled"), strict=True))
        seen |= {role: (batch, jobs[batch]) for batch, role in roles.items()}
        (batch, lost), (_, cancelled), (_, late) = seen["lost"], seen["cancelled"], seen["late"]
        slurm.kill_node(lost.node)
        slurm.kill_controller()
        run.says("controller does not answer")
        slurm.start_controller()
        run.says("answers again")
        # not before: a controller that is killed forgets its last seconds, and the job would be there again
        slurm.ask("scancel", cancelled.job)
        slurm.wait_for_state(cancelled.job, "CANCELLED")
        slurm.ask("scontrol", "update", f"jobid={late.job}", "timelimit=1")
        seen["back"] = run.hold("acquire", batch, but=lost.pid)
        run.let_go("acquire", batch)
        slurm.start_node(lost.node)
        # a job on the only node with GPUs makes room for a more urgent one
        seen["preempted"] = run.hold("export", batch)
        urgent = ["--partition=rush", "--nodelist=g1", "--exclusive", "--mem=100", "--output=/dev/null", "--wrap=sleep 1"]
        slurm.ask("sbatch", *urgent)
        slurm.wait_for_state(seen["preempted"].job, "PENDING")
        seen["code"] = run.ends()
        seen["states"] = dict(line.split() for line in slurm.ask("squeue", "-h", "-t", "all", "-o", "%i %T").splitlines())
    finally:
        run.kill()
        slurm.ask("scancel", "--user=root", check=False)
    return run, seen


def test_a_run_through_every_fault_gives_the_results_of_an_undisturbed_one(faults, undisturbed):
    run, seen = faults
    assert seen["code"] == 0, run.said[-6000:]
    same(run.folder, undisturbed)


def test_a_job_that_was_cancelled_or_ran_out_of_time_is_tried_again_with_more(faults):
    run, seen = faults
    for role, state in (("cancelled", "CANCELLED"), ("late", "TIMEOUT")):
        batch, held = seen[role]
        assert seen["states"][held.job] == state
        first, second, *more = run.asked("acquire", batch)
        assert not more
        assert second["runtime"] == pytest.approx(2 * first["runtime"], abs=2)
        assert second["mem_mb"] == pytest.approx(2 * first["mem_mb"], abs=2), "the rule's own memory grows, too"


def test_a_job_of_a_node_that_died_is_run_once_more_by_slurm_and_not_by_snakemake(faults):
    run, seen = faults
    batch, lost = seen["lost"]
    assert seen["back"].job == lost.job and seen["back"].node != lost.node
    assert len(run.asked("acquire", batch)) == 1
    assert seen["states"][lost.job] == "COMPLETED"


def test_a_job_that_was_preempted_goes_back_into_the_queue_and_ends_there(faults):
    run, seen = faults
    assert seen["states"][seen["preempted"].job] == "COMPLETED"
    assert len(run.asked("export", seen["lost"][0])) == 1


def test_jobs_that_ask_for_a_gpu_run_on_a_node_that_has_one_and_see_it(faults):
    run, _ = faults
    for batch in BATCHES:
        line = (run.work / "logs" / "export" / f"{batch}.log").read_text().splitlines()[0]
        assert re.search(r"in Slurm job \d+ on g1 with GPU [01]$", line), line
    assert "GPU" not in (run.work / "logs" / "acquire" / "b00001.log").read_text()


def test_a_job_above_its_memory_is_ended_by_slurm_and_passes_with_more(faults):
    run, seen = faults
    first, second = run.asked("report", "b00001")
    assert (first["mem_mb"], second["mem_mb"]) == (100, 800)
    states = [seen["states"][number] for number in re.findall(r"SLURM jobid (\d+) \(log: \S*rule_report", run.said)]
    assert len(states) == 2
    assert states[0] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED"), "Slurm ended the first"
    assert states[1] == "COMPLETED"


def test_a_profile_without_a_partition_where_none_is_the_default_is_refused_naming_those_that_there_are(slurm, cohort, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "profile.v9+.yaml").write_text("default-resources:\n  mem_mb: 2000\n  runtime: 30\n")
    slurm.ask("scontrol", "update", "partitionname=cpu", "default=no")
    try:
        run = Run(tmp_path, command(tmp_path / "site", **settings(cohort)))
        assert run.ends() != 0
    finally:
        slurm.ask("scontrol", "update", "partitionname=cpu", "default=yes")
    assert "no partition is named for acquire, and this Slurm has no default one: give slurm_partition (cpu, gpu, paid, rush)" in run.said
    assert "submitted" not in run.said and "Traceback" not in run.said


# --- the head process dies ----------------------------------------------------------------------------------------


def test_after_a_killed_head_old_jobs_are_cancelled_or_waited_for_and_none_writes_beside_the_new_run(slurm, cohort, undisturbed, tmp_path):
    given, site = settings(cohort), site_profile(tmp_path / "site")
    slurm.ask("scontrol", "update", "nodename=c2", "state=drain", "reason=test")
    # room for one job: the others wait
    filler = slurm.ask("sbatch", "--parsable", "--nodelist=c1", "--cpus-per-task=3", "--output=/dev/null", "--wrap=sleep 600")
    try:
        first = Run(tmp_path, command(site, *ACQUIRED, **given))
        held = next(filter(None, (holding(first, batch) for batch in [None, *BATCHES])))
        batch, job = held
        second = Run(tmp_path / "second", command(site, *ACQUIRED, **given, output=first.folder / "results"))
        assert second.ends() != 0
        assert re.search(rf"results belongs to another run \(process {first.process.pid} on \S+\): wait for it", second.said), second.said
        wait_for(lambda: len(re.findall("has been submitted", first.said)) == 3, 60, "all jobs are submitted")
        first.kill()
        subprocess.run(command(site, "--unlock", **given), cwd=first.folder, env=environment(), check=True, capture_output=True)
        again = Run(tmp_path, command(site, *ACQUIRED, **given))
        again.says("cancels 2 jobs of a run that was killed")
        again.says(rf"waits for jobs of a run that was killed: {job} \(acquire {batch} on c1\)")
        assert "submitted" not in again.said
        slurm.ask("scancel", filler)
        slurm.ask("scontrol", "update", "nodename=c2", "state=resume")
        first.let_go("acquire", batch)
        assert again.ends() == 0, again.said[-6000:]
    finally:
        slurm.ask("scontrol", "update", "nodename=c2", "state=resume", check=False)
        slurm.ask("scancel", "--user=root", check=False)
    same_records(tmp_path, undisturbed, "acquire")
    timing = (tmp_path / "work" / "records" / "acquire" / batch / "timing.tsv").read_text().splitlines()
    assert timing[1].split("\t")[timing[0].split("\t").index("resumed")] == "1", "what the old job made is taken over"


def holding(run: Run, batch: str | None) -> tuple[str, str] | None:
    """Wait, without a batch, until one runs; with one, hold it if it is that."""
    if batch is None:
        wait_for(lambda: any(run.owner("acquire", one) for one in BATCHES), 300, "a job runs")
        return None
    return (batch, run.hold("acquire", batch).job) if run.owner("acquire", batch) else None


# --- waits --------------------------------------------------------------------------------------------------------


def test_no_wait_is_without_a_word_and_hopeless_ones_end(slurm, cohort, undisturbed, tmp_path):
    site = site_profile(tmp_path / "site")
    slurm.ask("scontrol", "update", "nodename=c[1-2]", "state=drain", "reason=test")
    try:
        run = Run(tmp_path, command(site, ACQUIRED[0], **settings(cohort)))
        run.says(r"waits for job \d+ \(acquire b00001\) in partition cpu: the nodes that could take it are down, drained or reserved")
        job = re.search(r"SLURM jobid (\d+)", run.said).group(1)
        slurm.ask("scontrol", "hold", job)
        run.says(rf"waits for job {job} .*an administrator holds it")
        run.says(rf"cancels job {job} \(acquire b00001\), which can never start: an administrator holds it \(JobHeldAdmin\)")
        slurm.ask("scontrol", "update", "nodename=c[1-2]", "state=resume")
        held = run.hold("acquire", "b00001")
        assert held.job != job
        slurm.kill_controller()
        run.says("Slurm's controller does not answer")
        slurm.start_controller("-c")
        run.says(rf"Slurm does not know job {held.job} any more")
        assert run.ends() == 0, run.said[-6000:]
    finally:
        run.kill()
        slurm.ask("scontrol", "update", "nodename=c[1-2]", "state=resume", check=False)
        slurm.ask("scancel", "--user=root", check=False)
    same_records(tmp_path, undisturbed, "acquire/b00001")
