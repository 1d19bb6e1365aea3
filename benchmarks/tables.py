"""The tables of docs/ (`PAGES`) out of the records in benchmarks/results.

``python -m benchmarks.tables`` writes them between the pages' markers; what stands outside of markers is left as it is.
``python -m benchmarks.tables --run [BENCHMARK ...] [--bm4d PYTHON] [--bm3d PYTHON] [--peers PYTHON] [--slurm]`` measures first, on a
machine that should have nothing else to do; PYTHON is that of another environment, which has the package. Without names it measures what
stands on docs/performance.md: about 15 minutes, of which `blocks` takes 9, 17 GB of memory and 20 GB of disk. Those of the other pages are
named: `scale` (7 minutes), `overhead` (14, with ``--slurm`` 25), `faults` (15), `motion` (2); what the others took stands on their page.

A place for a table is ``<!-- measured: BENCHMARK TABLE -->`` to ``<!-- end -->``, without a table's name one for all of a benchmark;
``<!-- measured: figures -->`` is that of all figures of the page.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, TARGETS, markdown

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
PAGES = {
    PAGE: ("filters", "files", "inference", "blocks"),
    ROOT / "docs" / "cluster.md": ("scale", "overhead", "faults"),
    ROOT / "docs" / "restoration.md": (
        *("denoise", "denoise_ct", "selfsupervised", "denoise_proofs"),
        *("superresolve", "superresolve_proofs", "motion"),
    ),
    ROOT / "docs" / "registration.md": ("registration", "register_proofs"),
    ROOT / "docs" / "segmentation.md": ("regseg", "real_heads", "quality", "quality_any", "segment", "segment_proofs", "vessels"),
    ROOT / "docs" / "classification.md": (
        "classify",
        "classify_proofs",
        "recognize",
        "recognize_proofs",
        "radiomics",
        "classify_evaluation",
    ),
    ROOT / "docs" / "robustness.md": ("robustness", "deface"),
    ROOT / "docs" / "outputs.md": ("report",),
}
"""The pages, and the benchmarks that each shows."""
BENCHMARKS = [name for names in PAGES.values() for name in names]
PLACE = re.compile(r"(<!-- measured: ([a-z0-9_]+) ?([a-z0-9_]*) -->\n).*?(<!-- end -->)", re.DOTALL)
BESIDES = ("--bm3d", "--bm4d", "--keep", "--only", "--peers", "--proof", "--report", "--said", "--slurm")
"""Options that measure something more, or a part at a time, and change nothing else; of proofs and parts the record has all that were ever
asked for."""
MODULES: dict[str, tuple[str, ...]] = {
    "superresolve_proofs": ("benchmarks.superresolve", "--proof", "all"),
    "quality_any": ("benchmarks.quality", "--model", "zoo/regseg/any_contrast", "--crop", "0"),
}
"""Module and words of benchmarks that are not a module of their name."""
MEETS = {">=": operator.ge, "<=": operator.le}


def read(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return the records by benchmark."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def page(text: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a page with what was measured at its places.

    Raises
    ------
    KeyError
        A place for a benchmark or table that there is not. One that was not run yet is said to be absent.
    """
    shown = [benchmark for benchmark in TARGETS if benchmark in {name for _, name, _, _ in PLACE.findall(text)}]

    def filled(place: re.Match[str]) -> str:
        begin, benchmark, table, end = place.groups()
        if benchmark == "figures":
            lines = summary(records, shown or list(TARGETS))
        elif benchmark in BENCHMARKS and benchmark not in records:
            lines = [f"Not measured yet: `python -m benchmarks.tables --run {benchmark}`."]
        else:
            found = records.get(benchmark, {}).get("tables", {})
            if not found or (table and table not in found):
                raise KeyError(f"the record of {benchmark!r} has no table {table!r}")
            lines = about(records[benchmark])
            for each in [table] if table else found:
                lines += ["", *markdown(found[each])]
        return "\n".join([begin, *lines, "", end])

    return PLACE.sub(filled, text)


def summary(records: Mapping[str, Mapping[str, Any]], benchmarks: Sequence[str] = tuple(TARGETS)) -> list[str]:
    """Return the lines of the table of all figures of which something is asked."""
    rows = []
    for benchmark in benchmarks:
        record = records.get(benchmark, {"figures": {}, "command": ""})
        # sizes other than the usual ones are asked for by options; what is only measured besides is none of them
        usual = not record["command"].split()[3:] or record["command"].split()[3] in BESIDES
        for name, target in TARGETS[benchmark].items():
            if target is None:
                continue
            relation, asked = target
            value = record["figures"].get(name)
            met = "not measured" if value is None else "other sizes" if not usual else "yes" if MEETS[relation](value, asked) else "**no**"
            sign = {">=": "at least", "<=": "at most"}[relation]
            rows.append([f"`{benchmark}`", f"`{name}`", f"{sign} {asked:g}", None if value is None else f"{value:.4g}", met])
    return markdown({"columns": dict.fromkeys(["benchmark", "figure", "asked", "measured", "met"], ""), "rows": rows})


def about(record: Mapping[str, Any]) -> list[str]:
    """Return the lines that say how a record came about."""
    machine, versions = record["machine"], ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    load = "" if machine["load"] is None else f", load {machine['load']:g} when it began"
    processor = " with ".join([machine["processor"], *([", ".join(machine["has"])] if machine["has"] else [])])
    return [
        f"`{record['command']}`: {record['minutes']:g} minutes on {record['date']}, commit {record['commit']}.",
        f"{processor}; {machine['cores']} cores, {machine['memory_gb']} GB{load}; {versions}.",
    ]


def command_of(
    benchmark: str, bm4d: str | None = None, bm3d: str | None = None, slurm: bool = False, peers: str | None = None
) -> list[str]:
    """Return the words of the command that measures a benchmark and leaves its record.

    Parameters
    ----------
    benchmark : str
    bm4d, bm3d, peers : str, optional
        Pythons of environments that have these packages (peers: those of the extra); benchmarks that compare with them get them.
    slurm : bool
        `overhead` on Slurm, too.
    """
    module, *further = MODULES.get(benchmark, (f"benchmarks.{benchmark}",))
    words = [sys.executable, "-m", module, *further, "--save", str(RESULTS / f"{benchmark}.json")]
    for option, python, those in (
        ("--bm4d", bm4d, ("filters", "denoise")),
        ("--bm3d", bm3d, ("denoise_ct",)),
        ("--peers", peers, ("registration",)),
    ):
        if benchmark in those and python is not None:
            words += [option, python]
    if benchmark == "overhead" and slurm:
        words.append("--slurm")
    if benchmark == "scale":
        words += ["--report", "10000", "50000"]
    return words


def measure(benchmarks: Sequence[str], **options: Any) -> None:
    """Run benchmarks one after the other, see `command_of`; each leaves its record."""
    for benchmark in benchmarks:
        words = command_of(benchmark, **options)
        print("$ python", *words[1:], flush=True)
        subprocess.run(words, check=True, cwd=ROOT)


def main() -> None:
    """Measure, if asked to, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", choices=BENCHMARKS, help="measure these first; those of docs/performance.md if none is named")
    parser.add_argument("--bm4d", help="a Python in whose environment the package bm4d is installed, for `filters` and `denoise`")
    parser.add_argument("--bm3d", help="a Python in whose environment the package bm3d is installed, for `denoise_ct`")
    parser.add_argument("--peers", help="a Python in whose environment the packages of the extra `peers` are installed, for `registration`")
    parser.add_argument("--slurm", action="store_true", help="`overhead` also on the Slurm of the tests")
    options = parser.parse_args()
    if options.run is not None:
        measure(options.run or PAGES[PAGE], bm4d=options.bm4d, bm3d=options.bm3d, slurm=options.slurm, peers=options.peers)
    for path in PAGES:
        path.write_text(page(path.read_text(), read()))


if __name__ == "__main__":
    main()
