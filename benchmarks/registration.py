"""Registration without learning beside its peers: known warps of heads, prostates in MR and ultrasound, visits of MS patients.

    python -m benchmarks.registration [--peers /path/to/other/python [--keep FOLDER]] [--scans ../shared/data]

Known warps (see `benchmarks.registration_data`): a simulated and two real heads, two warps each, of seeds that the engine was not
designed with. The error (TRE) is the mean distance from the true displacement over the head, Dice that of labels moved as found and
as true. CPU seconds of one thread, compiled code warm; no method is given a mask. Figures with ``_vs_`` are medians over the pairs of
the ratio ours / theirs. `choice_worse` is the most by which the automatic choice of what the last steps compare had a larger error than
self-similarities alone; ``_vs_network`` the ratio to the same search begun at the displacement of the shipped network for any contrast;
`min_jacobian` the smallest determinant of all; `consistency_mm` the median of the mean distance over the head after going there and, by a
registration of its own, back. Real data (`benchmarks.real_registration`): `prostate_dice_gain` is the mean
change of the gland's Dice from the start on, `rigid_error_mm` the mean distance over the brain from the data set's own transforms.

Peers (PyPI: picsl-greedy, itk-elastix, convexadam; the extra `peers`, none is a dependency) run with the Python of another environment;
without one their figures are absent. With --keep what every method took and found is kept in a folder, and taken from there when it was
measured before: a run that was stopped goes on. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import operator
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import registration_peers
from benchmarks.record import ROOT, Run, Table, add_save
from benchmarks.registration_data import KINDS, Pair, dice, error_mm, pairs
from benchmarks.registration_start import network_start
from cohortex.registration.fields import compose, least_jacobian
from cohortex.registration.gauss_newton import register
from cohortex.threads import set_threads

PEERS = {"mono": ("greedy",), "multi": ("elastix", "convexadam"), "bias": ("elastix",), "local": ("convexadam",)}
SEED = 81001
NETWORK = "ours, after the network"

Measures = Mapping[str, float]


def measured_of(pair: Pair, found: np.ndarray, seconds: float) -> dict[str, float]:
    """Return what counts of a displacement (3, X, Y, Z) in voxels."""
    return {"seconds": seconds, "mm": error_mm(pair, found), "dice": dice(pair, found), "jacobian": least_jacobian(found)}


def kept_as(pair: Pair, method: str, settings: bytes, keep: Path) -> Path:
    """Return the file of what a method took and found, by the images and by what its settings are."""
    return keep / f"{method}-{hashlib.sha256(pair.fixed.tobytes() + pair.moving.tobytes() + settings).hexdigest()[:20]}.json"


def peer_file(pair: Pair, peer: str, keep: Path) -> Path:
    """Return the file of a peer's measures."""
    return kept_as(pair, peer, inspect.getsource(getattr(registration_peers, peer)).encode(), keep)


def by_peer(python: str, peer: str, pair: Pair, keep: Path) -> None:
    """Leave the measures of a peer in a folder, unless they are there."""
    kept = peer_file(pair, peer, keep)
    if kept.is_file():
        return
    script = Path(registration_peers.__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "pair.npz", Path(folder) / "found.npz"
        np.savez(source, fixed=pair.fixed, moving=pair.moving, spacing=1.0)
        words = [python, str(script), peer, str(source), str(target)]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{peer} does not run with {python}: {done.stderr.strip().splitlines()[-1:]}")
        found = np.load(target)
        measures = measured_of(pair, found["displacement"], float(found["seconds"]))
    kept.write_text(json.dumps(measures))


def by_us(pair: Pair, finish: str, keep: Path, model: Path | None = None) -> dict[str, Any]:
    """Return our measures, and what was compared in the end; of `auto` also the distance after going there and back.

    With a `model` the search begins at what its network finds.
    """
    engine = b"".join(path.read_bytes() for path in sorted((ROOT / "cohortex" / "registration").glob("*.py")))
    begun = None if model is None else network_start(model)
    name = f"ours_{finish}" if model is None else "ours_network"
    kept = kept_as(pair, name, engine if model is None else engine + (model / "card.yaml").read_bytes(), keep)
    if kept.is_file():
        return json.loads(kept.read_text())
    started = time.process_time()
    found = register(pair.fixed, pair.moving, None, 1.0, None if begun is None else begun(pair), finish=finish)
    measures: dict[str, Any] = measured_of(pair, found.displacement, time.process_time() - started)
    measures["note"] = f"{found.finish} ({found.agreement:.2f})" if finish == "auto" else ""
    if finish == "auto" and model is None and pair.kind in ("mono", "multi"):
        backward = register(pair.moving, pair.fixed, None, 1.0)
        measures["back"] = float(np.linalg.norm(compose(found.displacement, backward.displacement), axis=0)[pair.head].mean())
    kept.write_text(json.dumps(measures))
    return measures


def warps(options: argparse.Namespace, keep: Path, tables: dict[str, Table]) -> dict[str, float]:
    """Register all known warps, fill the tables, and return the figures."""
    keep.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(0).random((2, 24, 24, 24), dtype=np.float32)
    for finish in ("mind", "images"):
        register(small[0], small[1], finish=finish)
    columns = {"pair": "", "kind": "", "method": "", "CPU s": ".2f", "TRE mm": ".3f", "Dice": ".3f", "least Jacobian": ".3f", "finish": ""}
    table = tables["pairs"] = Table(dict(columns))
    rows: dict[tuple[str, str], dict[str, Measures]] = {}
    theirs: list[tuple[str, str, str, Path]] = []
    consistency, worse = [], []

    def add(name: str, kind: str, method: str, measures: Measures, note: str = "") -> None:
        rows.setdefault((kind, method), {})[name] = measures
        table.add(name, kind, method, *(measures[n] for n in ("seconds", "mm", "dice", "jacobian")), note)

    for pair in pairs(options.scans, options.crop, options.heads, options.warps, options.kinds, options.seed):
        nothing = np.zeros_like(pair.truth)
        table.add(pair.name, pair.kind, "none", None, error_mm(pair, nothing), dice(pair, nothing), None, "")
        chosen, alone = (by_us(pair, finish, keep) for finish in ("auto", "mind"))
        add(pair.name, pair.kind, "ours", chosen, chosen["note"])
        add(pair.name, pair.kind, "ours, MIND alone", alone)
        if (options.model / "card.yaml").is_file():
            after = by_us(pair, "auto", keep, options.model)
            add(pair.name, pair.kind, NETWORK, after, after["note"])
        worse.append(chosen["mm"] / alone["mm"] - 1)
        if "back" in chosen:
            consistency.append(chosen["back"])
        for peer in PEERS[pair.kind]:
            if options.peers:
                by_peer(options.peers, peer, pair, keep)
            theirs.append((pair.name, pair.kind, peer, peer_file(pair, peer, keep)))
    for name, kind, peer, kept in theirs:
        if kept.is_file():
            add(name, kind, peer, json.loads(kept.read_text()))
    table.rows.sort(key=lambda row: row[:2])

    print()
    del columns["pair"], columns["finish"]
    tables["methods"] = Table({"pairs": "", **columns})
    for (kind, method), each in sorted(rows.items(), key=lambda item: KINDS.index(item[0][0])):
        middle = [float(np.median([m[n] for m in each.values()])) for n in ("seconds", "mm", "dice")]
        tables["methods"].add(str(len(each)), kind, method, *middle, min(m["jacobian"] for m in each.values()))

    def against(kind: str, peer: str, name: str, how: Callable[[float, float], float] = operator.truediv) -> float:
        return float(np.median([how(rows[kind, "ours"][pair][name], measures[name]) for pair, measures in rows[kind, peer].items()]))

    figures: dict[str, float] = {}
    for kind, peer in rows:
        if peer in PEERS[kind]:
            figures |= {f"{kind}_cpu_vs_{peer}": against(kind, peer, "seconds"), f"{kind}_tre_vs_{peer}": against(kind, peer, "mm")}
    if ("mono", "greedy") in rows:
        figures["mono_dice_gain"] = against("mono", "greedy", "dice", operator.sub)
    if all((kind, NETWORK) in rows for kind in ("mono", "multi")):
        figures |= {f"{kind}_tre_vs_network": against(kind, NETWORK, "mm") for kind in ("mono", "multi")}
    figures["min_jacobian"] = min(m["jacobian"] for (_, method), each in rows.items() if method.startswith("ours") for m in each.values())
    figures["consistency_mm"] = float(np.median(consistency))
    figures["choice_worse"] = max(worse)
    return figures


def real(scans: Path, tables: dict[str, Table]) -> dict[str, float]:
    """Register the real pairs that are there, fill the table, and return the figures."""
    from benchmarks import real_registration as real_pairs

    table = tables["real"] = Table({"pair": "", "measure": "", "start": ".3f", "result": ".3f", "CPU s": ".1f"})
    figures: dict[str, float] = {}
    if (scans / "prostate-mr-us").is_dir():
        gains = []
        for name, before, after, seconds in real_pairs.outlined():
            table.add(name, "Dice of the gland", before[0], after[0], seconds)
            if np.isfinite(after[1]):
                table.add(name, "landmarks, stored mm", before[1], after[1], None)
            gains.append(after[0] - before[0])
        figures["prostate_dice_gain"] = float(np.mean(gains))
    if (scans / "brain-ms-longitudinal").is_dir():
        errors = []
        for name, before, after, seconds in real_pairs.visits():
            table.add(name, "distance over the brain, mm", before, after, seconds)
            errors.append(after)
        figures["rigid_error_mm"] = float(np.mean(errors))
    if len(figures) < 2:
        print("real pairs are absent", file=sys.stderr)
    return figures


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python in whose environment picsl-greedy, itk-elastix and convexadam are installed")
    parser.add_argument("--keep", type=Path, help="a folder for what was measured, taken again from there")
    parser.add_argument("--model", type=Path, default=ROOT / "zoo" / "regseg" / "any_contrast", help="whose network's start is tried, too")
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--crop", type=int, default=128, help="most voxels of an axis; whole heads are 160 x 192 x 160")
    parser.add_argument("--heads", type=int, default=1, help="simulated heads")
    parser.add_argument("--warps", type=int, default=2, help="displacements of each head")
    parser.add_argument("--seed", type=int, default=SEED, help="of heads, warps and noise")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--only", choices=("warps", "real"), help="one part alone")
    add_save(parser)
    options = parser.parse_args()
    run = Run("registration", ("numpy", "numba", "scipy", "SimpleITK"))
    set_threads(1)
    if options.peers is None and options.keep is None:
        print("no --peers: picsl-greedy, itk-elastix and convexAdam are left out", file=sys.stderr)
    tables: dict[str, Table] = {}
    figures: dict[str, float] = {}
    if options.only != "real":
        with tempfile.TemporaryDirectory() as folder:
            figures |= warps(options, options.keep or Path(folder), tables)
    if options.only != "warps":
        figures |= real(options.scans, tables)
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
