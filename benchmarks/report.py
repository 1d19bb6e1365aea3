"""What the report of a cohort costs, and what other people's tools make of the results.

    python -m benchmarks.report [--only page,validator] [--subjects 5000] [--lost 200] [--heads 2] [--folder FOLDER] [--save FILE]

``page``: the dataset report of a large cohort (`benchmarks.report_page`): ``index_mb``, ``make_s``, ``make_mb``; ``open_s`` from the
address until its table stands, ``filter_s`` from a typed word until the table shows what it finds, each the slowest of five; requests
beyond the file, errors of the console, and what axe-core finds that is serious. Needs chromium and chromedriver. ``validator``: the
results of the demo and of real cohorts in the hands of the BIDS validator (`benchmarks.report_validator`). With ``--save`` the parts that
the record has already are kept beside the new ones. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, Run, add_save, saved_before
from benchmarks.report_page import page
from benchmarks.report_validator import validator


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="page,validator")
    parser.add_argument("--subjects", type=int, default=5000, help="of the large cohort")
    parser.add_argument("--lost", type=int, default=200, help="images of it that are set aside")
    parser.add_argument("--heads", type=int, default=2, help="of the demo that the validator sees")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real cohorts")
    parser.add_argument("--folder", type=Path, help="where runs lie or are made; a temporary one otherwise")
    add_save(parser)
    options = parser.parse_args()
    run = Run("report", ["numpy", "jinja2", "matplotlib", "selenium", "bids-validator-deno", "snakemake"])
    tables, figures = saved_before(options.save)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if "page" in options.only.split(","):
            found, more = page(folder, options.subjects, options.lost)
            tables, figures = tables | found, figures | more
        if "validator" in options.only.split(","):
            tables["validator"], more = validator(folder / "validator", options.heads, options.data)
            figures |= more
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
