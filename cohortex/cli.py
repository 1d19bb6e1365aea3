"""The command `cohortex`: what one needs beside Snakemake, before a run and after it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cohortex import __version__
from cohortex.errors import CohortexError, Refused

REFUSED = 2
"""Exit code when nothing was done."""
FOUND = 1
"""Exit code when it was done and something is wrong."""
PIPE_CLOSED = 141
"""Exit code when nobody read to the end: as shells tell of it, and not 0, since nobody knows what was still to be said."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 all is well, 1 something is wrong, 2 refused."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except CohortexError as error:
        print(f"cohortex: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read along (head, less) has seen enough; what is left is not flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cohortex", description="What one needs beside Snakemake, before a run and after it.")
    parser.add_argument("--version", action="version", version=f"cohortex {__version__}")
    commands = parser.add_subparsers(required=True, metavar="index | verify | status | find | view | names")

    index = commands.add_parser("index", help="make a cohort table of any folder of DICOM files")
    index.add_argument("folder", help="the folder that holds them, however deep")
    index.add_argument("-o", "--output", default="cohort.tsv", help="the table to write (cohort.tsv)")
    index.set_defaults(run=_index)

    verify = commands.add_parser("verify", help="read all results again and compare them with the sums of the run")
    verify.add_argument("results", help="the output folder of a run")
    verify.set_defaults(run=_verify)

    status = commands.add_parser("status", help="say how far a run is and what was set aside")
    status.add_argument("work", nargs="?", default="work", help="the work folder of a run (work)")
    status.add_argument(
        "-f",
        "--follow",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="show it again every so many seconds (5) until the run has ended",
    )
    status.set_defaults(run=_status)

    find = commands.add_parser("find", help="list the cases that meet conditions on measures, classes and covariates")
    find.add_argument("results", help="the output folder of a run")
    find.add_argument("conditions", nargs="+", help="column=value, also !=, <, <=, >, >=; each in quotes")
    find.set_defaults(run=_find)

    view = commands.add_parser("view", help="serve the report to a browser on this machine, and whole volumes to its viewers")
    view.add_argument("results", nargs="?", default="results", help="the output folder of a run (results)")
    view.add_argument("subject", nargs="?", help="begin with the volumes of this subject")
    view.add_argument("--port", type=int, default=0, help="port on this machine (any free one)")
    view.add_argument("--open", action="store_true", help="open a browser there, too")
    view.set_defaults(run=_view)

    names = commands.add_parser("names", help="say what pseudonyms and tokens of files stand for, to who ran it")
    names.add_argument("work", help="the work folder of a run with privacy: in its settings")
    names.add_argument("words", nargs="*", help="pseudonyms, tokens or given ids (all that there are)")
    names.set_defaults(run=_names)
    return parser


def _index(options: argparse.Namespace) -> int:
    from cohortex.cohort.index import index

    rows, left = index(options.folder, options.output)
    subjects = len({row["subject"] for row in rows})
    print(f"{options.output}: {len(rows)} series of {subjects} subjects." + (f" Left out: {left}." if left else ""))
    unclear = sum(row["modality"] == "MR" for row in rows)
    if unclear:
        print(
            f"{unclear} MR series do not say their contrast: write T1w, T2w, FLAIR or PDw for MR in the column modality where you know it."
        )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cohortex.verify import verify

    count, problems = verify(Path(options.results))
    for problem in problems:
        print(problem)
    print(
        f"{count} files read, {len(problems)} of them are not as the run left them."
        if problems
        else f"All {count} files are as the run left them."
    )
    return FOUND if problems else 0


def _status(options: argparse.Namespace) -> int:
    from cohortex.status import follow, status

    if options.follow is not None:
        if not options.follow > 0:
            raise Refused(f"--follow {options.follow:g} is no time to wait; give seconds above 0.")
        follow(Path(options.work), options.follow)
        return 0
    for line in status(Path(options.work)):
        print(line)
    return 0


def _find(options: argparse.Namespace) -> int:
    from cohortex.find import find
    from cohortex.tables import table_text

    columns, rows = find(Path(options.results), options.conditions)
    print(table_text(columns, rows), end="")
    print(f"{len(rows)} cases.", file=sys.stderr)
    return 0


def _view(options: argparse.Namespace) -> int:
    from cohortex.view import serve

    serve(Path(options.results), options.port, options.open, options.subject)
    return 0


def _names(options: argparse.Namespace) -> int:
    from cohortex.privacy.lookup import look_up

    unknown = 0
    for word, what in look_up(Path(options.work), options.words):
        print(f"{word}\t{what or 'not known here'}")
        unknown += not what
    return FOUND if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
