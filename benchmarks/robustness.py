"""Bad, odd and spoiled input: is every case judged as it must be, and what does it cost to look so closely?

    python -m benchmarks.robustness [--only battery,tests,odd,fuzz,overhead] [--files 100000] [--formats hdf5 ...] [--cores 2]
        [--said LOG] [--save FILE]

``battery``: every case of `tests.battery.cases` through the checker alone. ``tests``: the cases that whole runs, faults and pages make,
by the tests that `tests.battery.elsewhere` names (those that need Slurm or a GPU are not counted where there is none); of a run of the
whole test command with ``PYTEST_ADDOPTS=-rA`` its output can be given. ``odd``: the files
that pydicom and nibabel ship and those of the optional folder of test data, against the list `tests/battery/odd_files.tsv`. ``fuzz``: so
many files of every format, each spoiled by a seed of its own (`tests.fuzz.spoil`), read in child processes whose memory is limited:
anything but an image or a sentence, a crash, more memory or more than 20 s counts. ``overhead``: CPU time of reading with all checks over
that of nibabel, pydicom and zarr: the same files, the same voxels, as a float32 array in memory on both sides; the files lie in the page
cache, the two take turns, the median of many turns counts, and of several processes the median again (`benchmarks.strictness`). The figure
is that of the format that costs most. With ``--save`` the parts that the record has already are kept beside the new ones. Last line:
FIGURE.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save, child, saved_before
from tests.battery.case import judge
from tests.battery.cases import CASES
from tests.battery.elsewhere import PROVED
from tests.battery.odd import came_of, expected, odd_files

KINDS = {
    "N": "NIfTI",
    "D": "DICOM",
    "K": "raw data",
    "Z": "zarr",
    "T": "tables and configuration",
    "M": "models",
    "R": "resources and faults",
    "G": "graphics cards",
    "S": "geometry",
    "P": "report and privacy",
    "C": "all of them in one run",
}
PARTS = ("battery", "tests", "odd", "fuzz", "overhead")
CHUNK = 5000
MOST_MB = 1500
FIRST_SEED = 10_000
PROCESSES = 7
COLUMNS = {"case": "", "what": "", "usual libraries": "", "here": "", "right": ""}


def battery(folder: Path) -> tuple[Table, Counter[str], Counter[str]]:
    """Judge every case; return the table, the cases that are right and all of them, by kind."""
    table, right, total = Table(COLUMNS), Counter[str](), Counter[str]()
    for number, case in enumerate(CASES):
        found = judge(case, folder / str(number) / "in")
        total[case.id[0]] += 1
        right[case.id[0]] += not found.wrong
        table.add(case.id, case.what, case.libraries, told(found.verdict, found.code), "; ".join(found.wrong) or "yes")
    return table, right, total


def told(verdict: str, code: str) -> str:
    """Return a verdict with its code."""
    return f"{verdict} (`{code}`)" if code else verdict


def proved(said: Path | None) -> tuple[Table, Counter[str], Counter[str]]:
    """Run the tests of the cases that no single file makes; or read what came of them in the output of a run of all tests."""
    names = sorted({f"tests/{name}" for case in PROVED for name in case.tests})
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *names]
    out = said.read_text(errors="replace") if said else subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    results: dict[str, set[str]] = {}
    for word, name in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (\S+)", out, re.MULTILINE):
        results.setdefault(name.partition("[")[0].removeprefix("tests/"), set()).add(word)
    table, right, total = Table(COLUMNS), Counter[str](), Counter[str]()
    for case in PROVED:
        words_of = set().union(*(results.get(name, {"SKIPPED"}) for name in case.tests))
        if words_of == {"SKIPPED"}:
            table.add(case.id, case.what, case.libraries, case.verdict, "not tried here")
            continue
        total[case.id[0]] += 1
        right[case.id[0]] += not words_of & {"FAILED", "ERROR"}
        table.add(case.id, case.what, case.libraries, case.verdict, "no" if words_of & {"FAILED", "ERROR"} else "yes")
    return table, right, total


def odd() -> tuple[Table, int, int]:
    """Hold the odd files against their list."""
    listed, table, right = expected(), Table({"from": "", "read": "d", "set aside": "d", "skipped": "d", "as listed": "d", "files": "d"}), 0
    found: dict[str, list[tuple[str, bool]]] = {}
    for name, path in odd_files().items():
        what = came_of(path)
        found.setdefault(name.partition("/")[0], []).append((what[0], what == listed.get(name)))
    for place, each in found.items():
        count, fine = Counter(verdict for verdict, _ in each), sum(as_listed for _, as_listed in each)
        table.add(place, count["read"], count["set aside"], count["skipped"], fine, len(each))
        right += fine
    return table, right, sum(map(len, found.values()))


def some_spoiled(form: str, first: int, count: int, connection: Any) -> None:
    """Read spoiled files in a child process; send what came of them, the seed before each."""
    from cohortex.allocator import limit_memory
    from tests.fuzz.spoil import GOOD, read_spoiled, spoil

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    limit_memory(MOST_MB)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "good").mkdir()
        good = GOOD[form](Path(temporary) / "good")
        for seed in range(first, first + count):
            connection.send(("at", seed))
            spoil(good, Path(temporary) / good.name, np.random.default_rng([7, seed]))
            try:
                outcomes["taken" if (found := read_spoiled(form, Path(temporary) / good.name)) == "taken" else "sentence"] += 1
                del found
            except Exception as error:
                connection.send(("bad", (seed, f"{type(error).__name__}: {error}"[:120])))
    connection.send(("end", dict(outcomes)))


def fuzzed(job: tuple[str, int, int]) -> tuple[Counter[str], list[str]]:
    """Read a chunk of spoiled files, in another child after every crash or hang; return what came of them and what was wrong."""
    form, first, end = job
    outcomes, bad = Counter[str](), []
    context = multiprocessing.get_context("fork")
    while first < end:
        ours, theirs = context.Pipe(False)
        child = context.Process(target=some_spoiled, args=(form, first, end - first, theirs))
        child.start()
        theirs.close()
        at, done = first, False
        try:
            while not done:
                if not ours.poll(60):
                    bad.append(f"{form}, seed {at}: hangs")
                    break
                word, value = ours.recv()
                if word == "at":
                    at = value
                elif word == "bad":
                    bad.append(f"{form}, seed {value[0]}: {value[1]}")
                else:
                    outcomes.update(value)
                    done = True
        except EOFError:
            child.join()
            bad.append(f"{form}, seed {at}: ended with {child.exitcode}")
        child.kill()
        child.join()
        first = end if done else at + 1
    return outcomes, bad


def fuzz(files: int, cores: int, forms: Sequence[str], before: Table | None) -> Table:
    """Spoil so many files of every format that is named; rows of others are kept as they were before."""
    from multiprocessing.pool import ThreadPool

    from tests.fuzz.spoil import GOOD

    kept = {row[0]: row for row in (before.rows if before else [])}
    for form in forms or GOOD:
        jobs = [(form, at, min(at + CHUNK, FIRST_SEED + files)) for at in range(FIRST_SEED, FIRST_SEED + files, CHUNK)]
        outcomes, wrong = Counter[str](), []
        with ThreadPool(cores) as pool:
            for found, more in pool.imap_unordered(fuzzed, jobs):
                outcomes += found
                wrong += more
        kept[form] = [form, files, outcomes["taken"], outcomes["sentence"], len(wrong)]
        print(f"{form}: {dict(outcomes)}, {len(wrong)} wrong", *wrong[:20], sep="\n  ", flush=True)
    return Table(
        {"format": "", "files": ",d", "taken": ",d", "a sentence": ",d", "anything else": "d"}, [kept[f] for f in GOOD if f in kept]
    )


def overhead() -> tuple[Table, float]:
    """Compare reading with and without a close look, in several processes: where memory lies in one of them moves both by a tenth."""
    found = [child("benchmarks.strictness") for _ in range(PROCESSES)]
    table, most = Table({"files": "", "plain ms": ".1f", "strict ms": ".1f", "more": "+.1%", "least": "+.1%", "most": "+.1%"}), -1.0
    for name in found[0]:
        plain, strict = (statistics.median(each[name][at] for each in found) for at in (0, 1))
        more = [each[name][1] / each[name][0] - 1 for each in found]
        table.add(name, 1000 * plain, 1000 * strict, statistics.median(more), min(more), max(more))
        most = max(most, statistics.median(more))
    return table, most


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--files", type=int, default=100_000, help="spoiled files of each format")
    parser.add_argument(
        "--formats", nargs="+", default=[], metavar="FORMAT", help="spoil files of these formats alone (see tests/fuzz/spoil.py)"
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--said", type=Path, help="what pytest -rA said of all tests, instead of running those of the cases again")
    add_save(parser)
    options = parser.parse_args()
    parts = options.only.split(",")
    run = Run("robustness", ["numpy", "nibabel", "pydicom", "h5py", "zarr", "tifffile", "pillow"])
    tables, figures = saved_before(options.save)
    with tempfile.TemporaryDirectory() as temporary:
        for name, function in (("battery", lambda: battery(Path(temporary))), ("tests", lambda: proved(options.said))):
            if name in parts:
                tables[name], right, total = function()
                figures |= {f"{name}_{kind}": f for kind in KINDS if (f := right[kind])} | {f"{name}_of_{k}": total[k] for k in total}
        if "odd" in parts:
            tables["odd"], figures["odd_as_listed"], figures["odd_files"] = odd()
        if "fuzz" in parts:
            tables["fuzz"] = fuzz(options.files, options.cores, options.formats, tables.get("fuzz"))
            figures["fuzz_files"], figures["fuzz_crashes"] = (sum(row[at] for row in tables["fuzz"].rows) for at in (1, 4))
        if "overhead" in parts:
            tables["overhead"], figures["strict_overhead"] = overhead()
    kinds = Table({"of": "", "right": "d", "cases": "d"})
    for kind, words in KINDS.items():
        right, total = (sum(int(figures.get(f"{part}_{of}{kind}", 0)) for part in ("battery", "tests")) for of in ("", "of_"))
        if total:
            kinds.add(words, right, total)
    tables = {"kinds": kinds, **{name: tables.get(name, Table({"": ""}, [["not measured yet"]])) for name in PARTS}}
    figures |= {"cases_right": sum(row[1] for row in kinds.rows), "cases_total": sum(row[2] for row in kinds.rows)}
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
