"""What the head process of a run does beside Snakemake: one owner an output, checks before any job, a word at the end.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.clocks import check_host, check_stamps, read_by_jobs
from cohortex.config import TRAINED_FOR, is_trained, settings_for, training_section
from cohortex.errors import BadInput, Refused
from cohortex.io.paths import shown_path
from cohortex.machine import SCARCE, check_written, no_space, too_few
from cohortex.owner import alive, give_back, read_owner, take
from cohortex.publish import NO_SPACE
from cohortex.schema import nearest

BYTES_A_BATCH = 6.0
"""Folders of volumes of a batch that exist at once (a stage's input, its running folder, its output), in float32 volumes."""
FILES_AN_IMAGE = 40
"""Files of an image and of what is derived from it that exist at once, in these folders and in the records."""


def use_package_of(folder: str) -> None:
    """Let the scripts of all jobs import the package of a folder, before any other that is installed."""
    others = os.environ.get("PYTHONPATH", "")
    if others.split(os.pathsep)[0] != folder:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, others]))


def owner_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that name the run which owns the output and the work folder."""
    return {"output": Path(config["output"]) / ".cohortex" / "owner.json", "work": Path(config["work"]) / "owner.json"}


def claim(config: Mapping[str, Any]) -> None:
    """Make this process the owner of the output and of the work folder.

    Raises
    ------
    Refused
        When another run owns one of them; the sentence names host and process.
    """
    files = owner_files(config)
    for key, file in files.items():
        owner = take(file)
        if owner is not None:
            release(config)
            who = f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "one that is beginning at this moment"
            unknown = f"if it is gone, delete {file.relative_to(config[key])} in it"
            hint = unknown if alive(owner) is None else f"wait for it, or give another {key}"
            raise Refused(f"the {key} folder {config[key]} belongs to another run ({who}): {hint}")


def release(config: Mapping[str, Any]) -> None:
    """Give the folders back that this process owns."""
    for file in owner_files(config).values():
        give_back(file)


def check_flags(settings: Any) -> None:
    """Refuse flags of Snakemake with which half a result would count as done.

    Parameters
    ----------
    settings : snakemake.settings.types.ExecutionSettings

    Raises
    ------
    Refused
        Naming the flag.
    """
    if settings.keep_incomplete:
        raise Refused("--keep-incomplete would let what a failed job left count as done; leave it out: what is finished is kept anyway.")
    if settings.ignore_incomplete:
        raise Refused("--ignore-incomplete would take what a killed job left for done; leave it out, or say --rerun-incomplete.")
    if not settings.lock:
        raise Refused("--nolock would let two runs write at once; leave it out, or after a killed run say --unlock first.")


def in_use(config: Mapping[str, Any]) -> str:
    """Return a sentence on a run that works on the work folder now, empty where there is none.

    Of a second one Snakemake says only that the folder is locked, and how to break that.
    """
    owner = read_owner(owner_files(config)["work"])
    if not owner or owner.get("pid") == os.getpid() or alive(owner) is False:
        return ""
    return (
        f"the work folder {config['work']} belongs to another run (process {owner.get('pid')} on {owner.get('host')}); while it goes on "
        "only dry runs work beside it, and --unlock is not for it."
    )


def model_params(weights: Mapping[str, str]) -> str:
    """Return the models of a stage as one canonical string: name to folder and sha256 of the weights.

    The sha256 is the one that the card names (it is held against the file before any job and again when the model is
    loaded). A model that the workflow trains has none here, or every run after its training would start again.
    """
    models = {}
    for name, folder in weights.items():
        sha256 = ""
        if not is_trained(name):
            try:
                card = (Path(folder) / "card.yaml").read_text(encoding="utf-8")
            except OSError:
                card = ""
            match = re.search(r"^sha256: *['\"]?([0-9a-f]{64})", card, re.MULTILINE)
            sha256 = match.group(1) if match else ""
        models[name] = {"folder": folder, "sha256": sha256}
    return json.dumps(models, sort_keys=True, separators=(",", ":"))


def preflight(config: Mapping[str, Any], basedir: str, jobs: int = 1) -> None:
    """Check folders, models, clocks and disk before any job.

    Parameters
    ----------
    config : mapping
    basedir : str
        The folder of the Snakefile.
    jobs : int
        Jobs that run at once, each on a batch of its own.

    Raises
    ------
    Refused
        With a sentence that names the folder, the model folder, the column, the file of another time, or the space or files missing.
    """
    from cohortex.cohort import read_batches
    from cohortex.config import resolve_weights
    from cohortex.models.folder import check_registering, check_segmenting, check_used, read_model
    from cohortex.models.registry import entries
    from cohortex.stages import STAGES

    check_written({key: str(config[key]) for key in ("output", "work")})
    models: list[str] = []
    for stage in config["stages"]:
        if STAGES[stage].learned:
            named = resolve_weights(config[stage], stage, config["work"], basedir)
            folders = {name: Path(folder) for name, folder in named.items() if not is_trained(name)}
            for folder in folders.values():
                read_model(folder)
            models += named.values()
            task = STAGES[stage].task or stage
            check_used(config[stage], folders, task, [entry.name for entry in entries(task)])
            check_segmenting(config[stage], folders)
            check_registering(config[stage], folders)
            if any(map(is_trained, named)):
                check_training(config, stage)
    check_harmonise(config)
    check_host(Path(config["work"]))
    check_stamps(read_by_jobs(config, models, read_batches(config["work"])), Path(config["work"]))
    check_disk(Path(config["work"]), jobs)


def check_training(config: Mapping[str, Any], stage: str) -> None:
    """Check that a stage whose model is trained has subjects to train on, and what else its trainings need.

    That is a column to learn for the classifier, an objective for a denoiser, labels for a detector, and pairs for a registration network
    by itself.

    Raises
    ------
    Refused
        Naming the setting.
    """
    from cohortex.tables import read_table

    tables = Path(config["work"]) / "cohort"
    rows = read_table(tables / "cohort.tsv")
    trained = {row["subject"] for row in rows if row["split"] == "train"}
    if not trained:
        raise Refused(f"{stage}: weights: train needs training subjects, and the cohort has none; give a column split, or more subjects.")
    if stage == "regseg":
        sections = {task: training_section(config, task) for task in TRAINED_FOR}
        if any(settings_for(config[stage], modality).get("register_weights") == "train" for modality in config[stage]):
            from cohortex.training.register_settings import check_register

            check_register(sections["register"], rows)
    if stage == "denoise":
        from cohortex.training.settings import denoise_training

        denoise_training(config[stage])
    if stage == "recognize":
        from cohortex.training.recognize_settings import check_recognize

        check_recognize(config[stage], rows)
    if stage == "classify":
        from cohortex.models.registry import entry

        entry("classify", config[stage].get("default", {}).get("network", {}).get("name", "smallcnn3d"))
        target = config[stage].get("default", {}).get("target", "diagnosis")
        people = read_table(tables / "participants.tsv")
        classes = {person[target] for person in people if person["subject"] in trained and person.get(target)}
        if len(classes) < 2:
            raise Refused(
                f"classify.default.target is {target}, but the training subjects have {len(classes)} values of it where two or more are "
                "wanted; name a column of the table, of participants.tsv or of the table under labels."
            )


def check_harmonise(config: Mapping[str, Any]) -> None:
    """Check that the columns over which the report is to harmonise measures are there.

    Raises
    ------
    Refused
        Naming the column and what there is.
    """
    asked = (config.get("report") or {}).get("harmonise")
    if not asked:
        return
    there: list[str] = []
    for name in ("cohort.tsv", "participants.tsv"):
        table = Path(config["work"]) / "cohort" / name
        if table.is_file():
            with table.open(encoding="utf-8") as file:
                there += file.readline().rstrip("\n").split("\t")
    for key, names in (("batch", [asked["batch"]]), ("covariates", asked.get("covariates") or [])):
        for name in names:
            if name not in there:
                raise Refused(
                    f"report.harmonise.{key} names the column {name}, which neither the cohort's table nor what is known of the subjects "
                    f"has{nearest(name, sorted({*there} - {'batch', 'fingerprint', 'root', 'path'}))}."
                )


def disk_in_flight(work: Path, jobs: int) -> tuple[int, float, float]:
    """Estimate what the work folder holds at once: the batches that are not exported yet, as many as there are jobs, the largest.

    Returns
    -------
    batches : int
    megabytes, files : float
    """
    from cohortex.cohort import batch_sizes, run_batches

    exported, sizes = work / "records" / "export", batch_sizes(work)
    waiting = [sizes[batch] for batch in run_batches(work) if not (exported / batch).is_dir()]
    in_flight = sorted(waiting, key=lambda size: size.total_mb, reverse=True)[: max(jobs, 1)]
    megabytes, images = sum(size.total_mb for size in in_flight), sum(size.images for size in in_flight)
    return len(in_flight), BYTES_A_BATCH * megabytes, float(FILES_AN_IMAGE * images)


def check_disk(work: Path, jobs: int) -> None:
    """Compare what the batches in flight take with what the disk of the work folder has.

    Raises
    ------
    Refused
        When megabytes or files (inodes) do not suffice.
    """
    batches, megabytes, files = disk_in_flight(work, jobs)
    if not batches:
        return
    disk = os.statvfs(work)
    words = "one batch needs" if batches == 1 else f"the {batches} batches that run at once need"
    # Some file systems make inodes as they are wanted, and say that they have none.
    for what, needed, free in (
        ("MB", megabytes, disk.f_bavail * disk.f_frsize / 1e6),
        ("files", files, disk.f_favail if disk.f_files else float("inf")),
    ):
        if needed > free:
            raise Refused(
                f"the disk of the work folder has {free:.0f} {what} free, {words} about {needed:.0f} {what}: "
                "free some, give another work folder, run fewer jobs at once, or lower batch_size"
            )


def sweep_run(config: Mapping[str, Any]) -> None:
    """After a run that went through: remove the running folders, which only a killed run needs."""
    shutil.rmtree(Path(config["work"]) / ".running", ignore_errors=True)


def sentence_of(error: OSError, folder: str) -> str:
    """Say in a sentence what the system refused, and where; `folder` is where a full disk was met, which errors of writing do not name."""
    if error.errno in NO_SPACE:
        return no_space(folder, error)
    if error.errno in SCARCE:
        return too_few(error)
    file = shown_path(str(error.filename)) if error.filename else "a file"
    return f"{file} cannot be used ({error.strerror}); check the path, its permissions and its disk."


def tells_all(page: Path, work: Path, stages: Sequence[str]) -> bool:
    """Return whether a report is there and was made after every record of the cohort."""
    from cohortex.cohort import run_batches

    if not page.is_file():
        return False
    made = page.stat().st_mtime
    manifests = (work / "records" / stage / batch / "manifest.tsv" for stage in stages for batch in run_batches(work))
    return all(manifest.is_file() and manifest.stat().st_mtime <= made for manifest in manifests)


def say_what_went_wrong(config: Mapping[str, Any], basedir: str, stopped: bool = False) -> None:
    """After a failed run: make the report of the records that exist, unless one tells of them all, and end with one sentence.

    `stopped` tells that no job failed: the run was told to end before everything was done.
    """
    from cohortex.report.page import write_report
    from cohortex.verdict import verdict

    work, results, stages = Path(config["work"]), Path(config["output"]), list(config["stages"])
    page = results / "report" / "index.html"
    try:
        if not tells_all(page, work, stages):
            write_report(work, results, config, stages)
        _, sentence = verdict(work, config, stages)
        if stopped:
            sentence = (
                "The run ended before everything was done, and no job of it failed: it was told to end, or Snakemake could not go on (see "
                f"above). Start the same line again; what is finished is kept. The report of what there is: {page}."
            )
    except OSError as error:
        sentence = f"no report could be made: {sentence_of(error, str(results))}"
    except BadInput as error:
        sentence = f"no report could be made ({type(error).__name__}); see the logs under {work / 'logs'}"
    print(f"cohortex: {sentence}", file=sys.stderr)  # noqa: T201
