"""What the report of a cohort costs and whether others can use it.

    python -m benchmarks.report [--only page] [--subjects 5000] [--lost 200] [--folder FOLDER] [--save FILE]

``page``: the dataset report of a large cohort (`benchmarks.report_page`): ``index_mb``, ``make_s``, ``make_mb``; ``open_s`` from the
address until its table stands, ``filter_s`` from a typed word until the table shows what it finds, each the slowest of five; requests
beyond the file, errors of the console, and what axe-core finds that is serious. Needs chromium, chromedriver and axe-core-python.
Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.record import Run, add_save
from benchmarks.report_page import page


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="page")
    parser.add_argument("--subjects", type=int, default=5000)
    parser.add_argument("--lost", type=int, default=200, help="images that are set aside")
    parser.add_argument("--folder", type=Path, help="where records lie or are written; a temporary one otherwise")
    add_save(parser)
    options = parser.parse_args()
    run = Run("report", ["numpy", "jinja2", "matplotlib", "selenium"])
    with tempfile.TemporaryDirectory() as temporary:
        tables, figures = page(options.folder or Path(temporary), options.subjects, options.lost)
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
