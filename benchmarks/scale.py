"""What a cohort of ten and fifty thousand subjects costs before the first job, what a run leaves behind, and what its report costs.

    python -m benchmarks.scale [--folder DIR] [--only parse,dry,left,flight,report] [--report 10000] [--save FILE]

Data: stand-ins. Parse and dry run see a table of so many subjects with one T1w each (one file of eight bytes, named by all). `left`
runs the whole chain for real on 20 simulated subjects with a T1w and a CT of 35,000 voxels each, in one batch, with ``keep: []``.
`flight` runs 16 subjects in batches of two and compares what lies in the work folder with the estimate of the preflight. `report`
makes the report and the verdict of so many subjects (a T1w and a CT each) from records that never ran (`tests/fake_cohort.py`).
Times are CPU seconds, since a shared machine's clock says little; memory is the process's peak.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from benchmarks.record import TARGETS, Run, Table, add_save
from benchmarks.workflow import ROOT, command, environment, measured
from cohortex.stages import STAGES

PARSE = """
import sys, time
from snakemake import cli
from snakemake.workflow import Workflow
include, depth, spent = Workflow.include, 0, []
def timed(self, *args, **kwargs):
    global depth
    depth += 1
    started = time.process_time()
    try:
        return include(self, *args, **kwargs)
    finally:
        depth -= 1
        if depth == 0:
            spent.append(time.process_time() - started)
Workflow.include = timed
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
print("PARSE", sum(spent))
"""
LEFT_SUBJECTS = 20


def stand_ins(folder: Path, subjects: int) -> Path:
    """Write the table of a cohort whose images are all one small file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scan.nii.gz").write_bytes(b"stand-in")
    table = folder / f"cohort{subjects}.tsv"
    lines = ["subject\tmodality\tpath", *(f"s{number:05d}\tT1w\tscan.nii.gz" for number in range(subjects))]
    table.write_text("\n".join(lines) + "\n")
    return table


def parse_cost(folder: Path) -> dict[str, float]:
    """Time the parse of the Snakefile with 10,000 subjects, in a job's process (mode remote) and in the head; median of five.

    The head's second parse is told: the first also writes the table's batches.
    """
    table = stand_ins(folder, 10_000)
    words = ["--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "-q", "-n"]
    told = ["--config", f"input={table}", "batch_size=20"]
    target = [*words, "work/records/acquire/b00001"]
    subprocess.run(
        [sys.executable, "-m", "snakemake", *target, *told], cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    figures = {}
    for key, mode in (("parse_s", ["--mode", "remote"]), ("parse_head_s", [])):
        times = []
        for _ in range(5):
            process = [sys.executable, "-c", PARSE, *target, *mode, *told]
            done = subprocess.run(process, cwd=folder, env=environment(), text=True, capture_output=True, check=True)
            times.append(float(done.stdout.split("PARSE")[1]))
        figures[key] = sorted(times)[2]
    return figures


def dry_cost(folder: Path) -> dict[str, float]:
    """Dry-run 10,000 subjects in batches of 20, and 50,000 in batches of 100 and of 20, each as a first run."""
    figures = {}
    for name, subjects, batch_size in (("dry10k", 10_000, 20), ("dry50k", 50_000, 100), ("dry50k20", 50_000, 20)):
        table = stand_ins(folder, subjects)
        cost = measured([*command("-n", "-q"), "--config", f"input={table}", f"batch_size={batch_size}"], folder / name)
        figures |= {f"{name}_cpu_s": cost.cpu_s, f"{name}_mb": cost.head_mb}
    return figures


def left_behind(folder: Path) -> dict[str, float]:
    """Run the whole chain on a batch of 20 subjects and count files and jobs."""
    from tests.workflow import jobs_run, write_cohort

    subjects = [f"{number:03d}" for number in range(1, LEFT_SUBJECTS + 1)]
    table = write_cohort(folder / "cohort", subjects, ("T1w", "CT"))
    run = folder / "run"
    cost = measured([*command(), "--config", f"input={table}", f"batch_size={LEFT_SUBJECTS}"], run)
    print(f"left: the run took {cost.cpu_s:.0f} CPU s, {cost.peak_mb:.0f} MB", flush=True)
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_relative_to(run / "results")]
    once = {"cohort", "runs", "training", "models"}
    of_subjects = [path for path in files if not once & set(path.relative_to(run).parts[:2])]
    jobs = jobs_run((run / "benchmark.log").read_text())
    return {
        "files_per_subject": len(files) / LEFT_SUBJECTS,
        "files_of_batches_per_subject": len(of_subjects) / LEFT_SUBJECTS,
        "jobs_per_subject": sum(count for rule, count in jobs.items() if rule not in ("all", "report", "verdict")) / LEFT_SUBJECTS,
    }


FLIGHT_SUBJECTS, FLIGHT_BATCH, FLIGHT_CORES = 16, 2, 2


def flight_cost(folder: Path) -> dict[str, float]:
    """Run eight batches of two subjects on two cores, and look ten times a second at what the work folder holds.

    What counts are the folders of volumes and the running folders, each file once however many links it has; a batch is in flight
    while it has a volume there. Against: the estimate of the preflight for two jobs at once.
    """
    from benchmarks.padded import copy_workflow
    from cohortex.run import disk_in_flight
    from tests.workflow import phantom, write_nifti

    folder.mkdir(parents=True, exist_ok=True)
    lines = ["subject\tmodality\tpath"]
    for number in range(FLIGHT_SUBJECTS):
        write_nifti(folder / "scans" / f"{number:03d}.nii.gz", phantom(number, (96, 96, 60)))
        lines.append(f"{number:03d}\tT1w\tscans/{number:03d}.nii.gz")
    table = folder / "cohort.tsv"
    table.write_text("\n".join(lines) + "\n")
    snakefile, work = copy_workflow(folder / "copy", 0.5, folder / "told.tsv"), folder / "run" / "work"
    settings = ["--config", f"input={table}", f"batch_size={FLIGHT_BATCH}", "stages=[acquire,preprocess,denoise,export]"]
    words = [*command(cores=FLIGHT_CORES, snakefile=snakefile), *settings]
    measured([*words, "-n", "-q"], folder / "run")
    batches, estimate_mb, estimate_files = disk_in_flight(work, FLIGHT_CORES)
    most, done = [0, 0.0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            most[:] = [max(before, now) for before, now in zip(most, in_work(work), strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        measured(words, folder / "run")
    finally:
        done.set()
        watcher.join()
    return {
        "flight_batches": most[0],
        "flight_mb": most[1],
        "flight_files": most[2],
        "flight_estimate_batches": batches,
        "flight_estimate_mb": estimate_mb,
        "flight_estimate_files": estimate_files,
    }


def in_work(work: Path) -> tuple[int, float, int]:
    """Return how many batches have volumes in a work folder, and the megabytes and number of the files, each counted once."""
    batches: set[str] = set()
    sizes: dict[int, int] = {}
    for top in [*(work / stage for stage in STAGES), work / ".running"]:
        for place, _, names in os.walk(top):
            for name in names:
                if name.endswith(".ozx"):
                    batches |= {part for part in Path(place).parts if re.fullmatch(r"b[0-9]+", part)}
                with suppress(OSError):
                    found = Path(place, name).stat()
                    sizes[found.st_ino] = found.st_blocks * 512
    return len(batches), sum(sizes.values()) / 1e6, len(sizes)


REPORT = """
import sys
from pathlib import Path
root, what, work, results, *more = sys.argv[1:]
sys.path.insert(0, root)
work, results = Path(work), Path(results)
from tests.fake_cohort import CONFIG, STAGES
if what == "report":
    from cohortex.report.page import write_report
    write_report(work, results, CONFIG, STAGES)
elif what == "verdict":
    from cohortex.verdict import verdict
    print(verdict(work, CONFIG, STAGES)[1])
else:
    from tests.fake_cohort import write_fake_cohort
    write_fake_cohort(work, int(more[0]), batch_size=20, pictures=more[1] == "pictures")
"""


def report_cost(folder: Path, subjects: int) -> dict[str, float]:
    """Make report and verdict of a cohort that never ran."""
    work, results, name = folder / f"work{subjects}", folder / f"results{subjects}", f"{subjects // 1000}k"
    words = [sys.executable, "-c", REPORT, str(ROOT)]
    if not (work / "cohort").is_dir():
        shutil.rmtree(work, ignore_errors=True)
        measured([*words, "write", str(work), str(results), str(subjects), "pictures" if subjects <= 10_000 else ""], folder)
    figures = {}
    for what in ("report", "verdict"):
        cost = measured([*words, what, str(work), str(results)], folder)
        figures |= {f"{what}{name}_cpu_s": cost.cpu_s, f"{what}{name}_mb": cost.head_mb}
    files = {"page": results / "report" / "index.html", "manifest": results / "manifest.tsv"}
    return figures | {f"{key}{name}_file_mb": path.stat().st_size / 1e6 for key, path in files.items()}


ROWS = {
    "before": (
        {"before the first job": "", "CPU s": ".2f", "peak MB": ".0f"},
        (
            ("parse with 10,000 subjects, in a job's process (median of 5)", "parse_s", ""),
            ("the same in the head, which reads the table and looks at every file", "parse_head_s", ""),
            ("dry run of 10,000 subjects in batches of 20: 500 batches, 3,502 jobs", "dry10k_cpu_s", "dry10k_mb"),
            ("dry run of 50,000 subjects in batches of 100: 500 batches, 3,502 jobs", "dry50k_cpu_s", "dry50k_mb"),
            ("dry run of 50,000 subjects in batches of 20: 2,500 batches, 17,502 jobs", "dry50k20_cpu_s", "dry50k20_mb"),
        ),
    ),
    "left": (
        {"left behind by a subject": "", "number": ".2f"},
        (
            ("files beside the results (records, logs, benchmarks, Snakemake's own)", "files_per_subject"),
            ("the same without what a run has once, whatever its size", "files_of_batches_per_subject"),
            ("jobs", "jobs_per_subject"),
        ),
    ),
    "flight": (
        {"in the work folder at once": "", "most": ".0f", "estimate of the preflight": ".0f"},
        (
            ("batches with volumes", "flight_batches", "flight_estimate_batches"),
            ("megabytes of volumes and running folders", "flight_mb", "flight_estimate_mb"),
            ("files in them", "flight_files", "flight_estimate_files"),
        ),
    ),
    "report": (
        {"report and verdict": "", "10,000 subjects": ".1f", "50,000 subjects": ".1f"},
        (
            ("report, CPU s", "report10k_cpu_s", "report50k_cpu_s"),
            ("report, peak MB", "report10k_mb", "report50k_mb"),
            ("verdict, CPU s", "verdict10k_cpu_s", "verdict50k_cpu_s"),
            ("verdict, peak MB", "verdict10k_mb", "verdict50k_mb"),
            ("`report/index.html`, one file, MB", "page10k_file_mb", "page50k_file_mb"),
            ("`manifest.tsv`, MB", "manifest10k_file_mb", "manifest50k_file_mb"),
        ),
    ),
}
"""The tables: columns, and of each row its words and its figures."""


def tables(figures: Mapping[str, float]) -> dict[str, Table]:
    """Return the tables of what was measured; a row of which nothing was is left out."""
    found: dict[str, Table] = {}
    for name, (columns, rows) in ROWS.items():
        for words, *keys in rows:
            if any(key in figures for key in keys):
                found.setdefault(name, Table(columns)).add(words, *(figures.get(key) for key in keys))
    return found


def main() -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="parse,dry,left,flight,report")
    parser.add_argument("--report", type=int, nargs="*", default=[10_000], help="subjects of the cohorts whose report is made")
    add_save(parser)
    given = parser.parse_args()
    run = Run("scale", ["snakemake"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        parts = {
            "parse": lambda: parse_cost(folder / "parse"),
            "dry": lambda: dry_cost(folder / "dry"),
            "left": lambda: left_behind(folder / "left"),
            "flight": lambda: flight_cost(folder / "flight"),
            "report": lambda: {key: value for count in given.report for key, value in report_cost(folder / "report", count).items()},
        }
        figures: dict[str, float] = {}
        for name in given.only.split(","):
            found = parts[name]()
            figures |= found
            for key, value in found.items():
                print(f"{key:32s} {value:.4g}", flush=True)
    # cohorts of other sizes have figures of their own, which no table knows
    run.end(tables(figures), {key: value for key, value in figures.items() if key in TARGETS["scale"]}, given.save)


if __name__ == "__main__":
    main()
