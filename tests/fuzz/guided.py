"""Spoiled files that coverage leads on: inputs that reach new lines of a reader are kept and spoiled further.

    python -m tests.fuzz.guided [--only nifti,dicom] [--seconds 120] [--kept FOLDER]

For the formats whose parsing is Python, beside the blind spoiling of `tests.fuzz.spoil`, from which the good files come and what a reader
may make of a bad one. Needs the package atheris (the extra `fuzz`), which is not in the lock. Every format has a process of its own; what
was wrong is kept in a folder, and the exit code says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

FORMS = ("nifti", "dicom", "nrrd", "metaimage", "npy", "ozx", "table", "config")
WATCHED = ["cohortex", "pydicom", "nibabel", "yaml"]
"""Packages whose lines count."""
MOST_MB = 3000
LONGEST_S = 20


def guided(form: str, seconds: int, kept: Path) -> None:
    """Spoil one format for some time; ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=WATCHED):
        from tests.fuzz.spoil import GOOD, read_spoiled
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        good = GOOD[form](Path(temporary))
        corpus = Path(temporary) / "corpus"
        corpus.mkdir()
        (corpus / "good").write_bytes(good.read_bytes())
        bad = good.with_stem("bad")

        def one(data: bytes) -> None:
            bad.write_bytes(data)
            read_spoiled(form, bad)

        limits = [f"-max_total_time={seconds}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MB}", f"-max_len={2 * good.stat().st_size}"]
        atheris.Setup([sys.argv[0], *limits, "-seed=7", f"-artifact_prefix={kept}/{form}-", str(corpus)], one)
        atheris.Fuzz()


def main() -> None:
    """Try every format that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FORMS))
    parser.add_argument("--seconds", type=int, default=120, help="for each format")
    parser.add_argument("--kept", type=Path, default=Path("build/guided"), help="where inputs are kept that were wrong")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    if options.inside:
        guided(options.only, options.seconds, options.kept)
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("atheris is not installed: pip install atheris (it has builds for Linux and macOS)")
    wrong = 0
    for form in options.only.split(","):
        words = ["--inside", "--only", form, "--seconds", str(options.seconds), "--kept", str(options.kept)]
        done = subprocess.run([sys.executable, "-m", "tests.fuzz.guided", *words], capture_output=True, text=True, errors="replace")
        runs = re.findall(r"^#(\d+)\s.*?cov: (\d+)", done.stderr, re.MULTILINE)
        files, lines = runs[-1] if runs else ("0", "0")
        said = "something is wrong:" if done.returncode else "nothing wrong"
        print(f"{form}: {int(files):,} files, {lines} places reached, {said}", flush=True)
        if done.returncode:
            wrong += 1
            print(done.stderr[-4000:], flush=True)
    raise SystemExit(f"{wrong} formats with something wrong, kept in {options.kept}" if wrong else 0)


if __name__ == "__main__":
    main()
