"""What the workflow costs over a bare Python loop that calls the same stage functions on the same images.

    python -m benchmarks.overhead [--subjects 20] [--seconds 5] [--folder DIR] [--slurm] [--save FILE]

Data: 20 simulated subjects with one T1w of 128 x 128 x 60 voxels each, one batch; chain acquire, preprocess, denoise, export. The
stage functions are the workflow's, and each of their calls is filled up to 5 s by sleeping (`benchmarks.padded`), so the 5 s are
the same on a busy machine. Both sides use one core and count their imports. The loop hands volumes from function to function in memory
and writes nothing but the results (its call of `export`); the workflow also writes the volumes between stages, records, previews, the
report and the verdict.

``overhead_fraction`` is the CPU time that the workflow takes more than the loop, over the time of the loop (its calls at 5 s each and
the CPU time of its imports): what a machine that has nothing else to do adds, but for waiting. ``wall_fraction`` is the same by the
clock, waiting and other people's load included.

With ``--slurm`` the workflow runs besides on the Slurm of the tests (root; installed where it can be), by `profiles/slurm` as it is.
``slurm_wall_fraction`` is what it takes more than the loop by the clock; ``slurm_between_s`` is the time outside of the stages, each
counted from its first call to the end of its last one: the queue, Snakemake's looks at it, the start of each job, report and verdict.
The CPU time of Slurm's jobs is not seen from here, so there is no fraction of it; ``slurm_head_cpu_s`` is the head process's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.padded import Told, copy_workflow, padded, read_told
from benchmarks.record import Run, Table, add_save
from benchmarks.workflow import Cost, command, measured
from tests.slurm.cluster import started, why_not
from tests.workflow import phantom, write_nifti

CHAIN = ("acquire", "preprocess", "denoise", "export")
SHAPE = (128, 128, 60)


def bare(table: Path, results: Path, told: Path, seconds: float) -> None:
    """Call the stage functions on every image of a table, one after the other."""
    import yaml

    from benchmarks.workflow import ROOT
    from cohortex.config import check_config
    from cohortex.items import Image, settings_for
    from cohortex.stages.acquire import acquire
    from cohortex.stages.denoise import denoise
    from cohortex.stages.export import export
    from cohortex.stages.preprocess import preprocess
    from cohortex.tables import read_table
    from cohortex.threads import set_threads
    from cohortex.worker import seed_for

    set_threads(1)
    config = check_config({**yaml.safe_load((ROOT / "config.yaml").read_text()), "stages": list(CHAIN)})
    functions = {
        stage: padded(function, stage, seconds, str(told))
        for stage, function in (("acquire", acquire), ("preprocess", preprocess), ("denoise", denoise))
    }
    last = padded(export, "export", seconds, str(told))
    for row in read_table(table):
        name, subject, modality = f"{row['subject']}_{row['modality']}", row["subject"], row["modality"]
        known = {**dict.fromkeys(("acq", "run", "site", "scanner", "pair", "key"), ""), **row}
        known |= {"path": str(table.parent / row["path"]), "root": str(table.parent), "image": name, "sha256": "", "file": ""}
        image = Image(name, subject, "", modality, "image", row=known)
        for stage, function in functions.items():
            made = function(image, settings_for(config[stage], modality), None, seed_for(config["seed"], name, stage))
            for thing in made if isinstance(made, list) else [made]:
                if not thing.tag and thing.content is not None:
                    image = Image(name, subject, "", modality, "image", row=known, opener=lambda content=thing.content: content)
        last([image], {**config["export"], "results": str(results)}, None, 0)


def at_work_s(told: Sequence[Told]) -> float:
    """Return how long stages were at work: of each, from the first call of its function to the end of the last one."""
    stages = {line.stage for line in told}
    times = {stage: [line.time for line in told if line.stage == stage] for stage in stages}
    return sum(max(each) - min(each) for each in times.values())


def on_slurm(arguments: Sequence[str], snakefile: Path, folder: Path) -> Cost:
    """Run the workflow on the Slurm of the tests, which is started for it."""
    with started():
        return measured(command(*arguments, cores=None, snakefile=snakefile, profile="slurm"), folder)


def main() -> None:
    """Run both sides and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--slurm", action="store_true", help="the workflow also on the Slurm of the tests")
    parser.add_argument("--bare", nargs=3, type=Path, metavar=("TABLE", "RESULTS", "TOLD"), help="only the loop")
    add_save(parser)
    given = parser.parse_args()
    if given.bare:
        bare(*given.bare, given.seconds)
        return
    if given.slurm and (reason := why_not()):
        raise SystemExit(f"nothing was measured: {reason}")
    run = Run("overhead", ["snakemake", "snakemake-executor-plugin-slurm"])
    sides = ("loop", "workflow", *(["slurm"] if given.slurm else []))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        lines = ["subject\tsession\tmodality\tpath\tbody_part"]
        for number in range(given.subjects):
            write_nifti(folder / "scans" / f"{number:03d}.nii.gz", phantom(number, SHAPE), (1.5, 1.5, 2.5))
            lines.append(f"{number:03d}\t\tT1w\tscans/{number:03d}.nii.gz\t")
        table = folder / "cohort.tsv"
        table.write_text("\n".join(lines) + "\n")
        told = {side: folder / f"{side}.tsv" for side in sides}
        settings = ["--config", f"input={table}", f"batch_size={given.subjects}", f"stages=[{','.join(CHAIN)}]"]
        costs: dict[str, Cost] = {}
        for side in sides:
            if side == "loop":
                words = [sys.executable, "-m", "benchmarks.overhead", "--seconds", str(given.seconds)]
                costs[side] = measured([*words, "--bare", str(table), str(folder / "results"), str(told[side])], folder)
                continue
            snakefile = copy_workflow(folder / side, given.seconds, told[side])
            if side == "slurm":
                costs[side] = on_slurm(settings, snakefile, folder / "run-slurm")
            else:
                costs[side] = measured(command(*settings, cores=1, snakefile=snakefile), folder / "run")
        heard = {side: read_told(file) for side, file in told.items()}
    calls = {side: sum(line.what == "end" for line in each) for side, each in heard.items()}
    if len(set(calls.values())) > 1:
        raise SystemExit(f"the sides did not do the same: calls of stage functions {calls}")
    work_s = given.subjects * len(CHAIN) * given.seconds
    names = {"loop": "bare loop", "workflow": "workflow on this machine", "slurm": "workflow on Slurm"}
    columns = {
        f"{calls['loop']} calls of {given.seconds:g} s": "",
        "by the clock, s": ".0f",
        "more than the loop": ".1%",
        "CPU s beside them": ".1f",
    }
    shown = Table(columns)
    for side in sides:
        more = None if side == "loop" else costs[side].wall_s / costs["loop"].wall_s - 1
        shown.add(names[side], costs[side].wall_s, more, None if side == "slurm" else costs[side].cpu_s)
    extra_s = costs["workflow"].cpu_s - costs["loop"].cpu_s
    figures = {
        "overhead_fraction": extra_s / (work_s + costs["loop"].cpu_s),
        "wall_fraction": costs["workflow"].wall_s / costs["loop"].wall_s - 1,
        "extra_cpu_s": extra_s,
        "workflow_wall_s": costs["workflow"].wall_s,
        "loop_wall_s": costs["loop"].wall_s,
    }
    if given.slurm:
        figures |= {
            "slurm_wall_fraction": costs["slurm"].wall_s / costs["loop"].wall_s - 1,
            "slurm_wall_s": costs["slurm"].wall_s,
            "slurm_between_s": costs["slurm"].wall_s - at_work_s(heard["slurm"]),
            "slurm_head_cpu_s": costs["slurm"].cpu_s,
        }
    run.end({"overhead": shown}, figures, given.save)


if __name__ == "__main__":
    main()
