"""Make a demo cohort by hand: ``python -m cohortex.demo OUT --subjects 2``."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from cohortex.demo.make import make_demo
from cohortex.demo.table import DEFAULTS, demo_rows


def main() -> None:
    """Make the subjects, and write cohort.tsv and participants.tsv beside them."""
    parser = argparse.ArgumentParser(prog="python -m cohortex.demo", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=DEFAULTS["subjects"])
    parser.add_argument("--seed", type=int, default=DEFAULTS["seed"])
    parser.add_argument("--labelled", type=float, default=DEFAULTS["labelled"], help="share of the subjects with their labels")
    parser.add_argument("--prefix", default=DEFAULTS["prefix"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    settings = {"subjects": given.subjects, "seed": given.seed, "labelled": given.labelled, "prefix": given.prefix}
    rows, participants = demo_rows(settings)
    make_demo(rows, given.folder, given.seed, given.threads)
    for name, table in (("cohort.tsv", rows), ("participants.tsv", participants)):
        with (given.folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
