"""Registration without learning beside its peers: known warps of heads, prostates in MR and ultrasound, visits of MS patients.

    python -m benchmarks.registration [--peers /path/to/other/python [--keep FOLDER]] [--scans ../shared/data]

Known warps (see `benchmarks.registration_data`): a simulated and two real heads, two warps each, of seeds that the engine was not
designed with. The error (TRE) is the mean distance from the true displacement over the head, Dice that of labels moved as found and
as true. CPU seconds of one thread, compiled code warm; no method is given a mask. Figures with ``_vs_`` are medians over the pairs of
the ratio ours / theirs. `choice_worse` is the most by which the automatic choice of what the last steps compare had a larger error than
self-similarities alone; `min_jacobian` the smallest determinant of all; `consistency_mm` the median of the mean distance over the head
after going there and, by a registration of its own, back. Real data (`benchmarks.real_registration`): `prostate_dice_gain` is the mean
change of the gland's Dice from the start on, `rigid_error_mm` the mean distance over the brain from the data set's own transforms.

Peers (PyPI: picsl-greedy, itk-elastix, convexadam; the extra `peers`, none is a dependency) run with the Python of another environment;
without one their figures are absent. What they took and found is kept in a folder with --keep, by the images' digest. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import registration_peers
from benchmarks.record import ROOT, Run, Table, add_save
from benchmarks.registration_data import KINDS, Pair, dice, error_mm, pairs
from cohortex.registration.fields import compose, least_jacobian
from cohortex.registration.gauss_newton import register
from cohortex.threads import set_threads

PEERS = {"mono": ("greedy",), "multi": ("elastix", "convexadam"), "bias": ("elastix",), "local": ("convexadam",)}
SEED = 81001

Measures = Mapping[str, float]


def measured_of(pair: Pair, found: np.ndarray, seconds: float) -> dict[str, float]:
    """Return what counts of a displacement (3, X, Y, Z) in voxels."""
    return {"seconds": seconds, "mm": error_mm(pair, found), "dice": dice(pair, found), "jacobian": least_jacobian(found)}


def by_peer(python: str, peer: str, pair: Pair, keep: Path | None) -> Measures:
    """Return the measures of a peer, from a folder if it has them."""
    script = Path(__file__).with_name("registration_peers.py")
    settings = inspect.getsource(getattr(registration_peers, peer)).encode()
    digest = hashlib.sha256(pair.fixed.tobytes() + pair.moving.tobytes() + settings).hexdigest()[:20]
    kept = None if keep is None else keep / f"{peer}-{digest}.json"
    if kept is not None and kept.is_file():
        return json.loads(kept.read_text())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "pair.npz", Path(folder) / "found.npz"
        np.savez(source, fixed=pair.fixed, moving=pair.moving, spacing=1.0)
        done = subprocess.run(
            [python, str(script.resolve()), peer, str(source), str(target)], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{peer} does not run with {python}: {done.stderr.strip().splitlines()[-1:]}")
        found = np.load(target)
        measures = measured_of(pair, found["displacement"], float(found["seconds"]))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(measures))
    return measures


def by_us(pair: Pair, finish: str) -> tuple[Measures, Any]:
    """Return our measures, and what was found."""
    started = time.process_time()
    found = register(pair.fixed, pair.moving, None, 1.0, finish=finish)
    seconds = time.process_time() - started
    return measured_of(pair, found.displacement, seconds), found


def warps(options: argparse.Namespace, tables: dict[str, Table]) -> dict[str, float]:
    """Register all known warps, fill the tables, and return the figures."""
    small = np.random.default_rng(0).random((2, 24, 24, 24), dtype=np.float32)
    for finish in ("mind", "images"):
        register(small[0], small[1], finish=finish)
    columns = {"pair": "", "kind": "", "method": "", "CPU s": ".2f", "TRE mm": ".3f", "Dice": ".3f", "least Jacobian": ".3f", "finish": ""}
    table = tables["pairs"] = Table(dict(columns))
    rows: dict[tuple[str, str], list[Measures]] = {}
    consistency, worse = [], []

    def add(pair: Pair, method: str, measures: Measures, note: str = "") -> None:
        rows.setdefault((pair.kind, method), []).append(measures)
        table.add(pair.name, pair.kind, method, *(measures[n] for n in ("seconds", "mm", "dice", "jacobian")), note)

    for pair in pairs(options.scans, options.crop, options.heads, options.warps, options.kinds, options.seed):
        nothing = np.zeros_like(pair.truth)
        table.add(pair.name, pair.kind, "none", None, error_mm(pair, nothing), dice(pair, nothing), None, "")
        chosen, found = by_us(pair, "auto")
        add(pair, "ours", chosen, f"{found.finish} ({found.agreement:.2f})")
        alone, _ = by_us(pair, "mind")
        add(pair, "ours, MIND alone", alone)
        worse.append(chosen["mm"] / alone["mm"] - 1)
        backward = register(pair.moving, pair.fixed, None, 1.0)
        consistency.append(float(np.linalg.norm(compose(found.displacement, backward.displacement), axis=0)[pair.head].mean()))
        for peer in PEERS[pair.kind] if options.peers else ():
            add(pair, peer, by_peer(options.peers, peer, pair, options.keep))

    print()
    tables["methods"] = Table(
        {"kind": "", "method": "", "pairs": "", "CPU s": ".2f", "TRE mm": ".3f", "Dice": ".3f", "least Jacobian": ".3f"}
    )
    for (kind, method), each in rows.items():
        middle = [float(np.median([m[n] for m in each])) for n in ("seconds", "mm", "dice")]
        tables["methods"].add(str(len(each)), kind, method, *middle, min(m["jacobian"] for m in each))

    def ratio(kind: str, peer: str, name: str) -> float:
        return float(np.median([ours[name] / theirs[name] for ours, theirs in zip(rows[kind, "ours"], rows[kind, peer], strict=True)]))

    figures: dict[str, float] = {}
    for kind, peer in rows:
        if peer in PEERS[kind]:
            figures |= {f"{kind}_cpu_vs_{peer}": ratio(kind, peer, "seconds"), f"{kind}_tre_vs_{peer}": ratio(kind, peer, "mm")}
    if ("mono", "greedy") in rows:
        gains = [ours["dice"] - theirs["dice"] for ours, theirs in zip(rows["mono", "ours"], rows["mono", "greedy"], strict=True)]
        figures["mono_dice_gain"] = float(np.median(gains))
    figures["min_jacobian"] = min(m["jacobian"] for (_, method), each in rows.items() if method.startswith("ours") for m in each)
    figures["consistency_mm"] = float(np.median(consistency))
    figures["choice_worse"] = max(worse)
    return figures


def real(scans: Path, tables: dict[str, Table]) -> dict[str, float]:
    """Register the real pairs that are there, fill the table, and return the figures."""
    from benchmarks import real_registration as real_pairs

    table = tables["real"] = Table({"pair": "", "measure": "", "start": ".3f", "result": ".3f", "CPU s": ".1f"})
    figures: dict[str, float] = {}
    parts: list[tuple[str, str, str, Callable[[], Any], Callable[[Sequence[tuple[float, float]]], float]]] = [
        ("prostate-mr-us", "Dice", "prostate_dice_gain", real_pairs.prostate, lambda r: float(np.mean([b - a for a, b in r]))),
        ("brain-ms-longitudinal", "mm", "rigid_error_mm", real_pairs.visits, lambda r: float(np.mean([b for _, b in r]))),
    ]
    for folder, measure, key, run, of in parts:
        if not (scans / folder).is_dir():
            print(f"{folder} is absent", file=sys.stderr)
            continue
        rows = []
        for name, before, after, seconds in run():
            table.add(name, measure, before, after, seconds)
            rows.append((before, after))
        figures[key] = of(rows)
    return figures


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python in whose environment picsl-greedy, itk-elastix and convexadam are installed")
    parser.add_argument("--keep", type=Path, help="a folder for what the peers take and find, taken again from there")
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
    if options.peers is None:
        print("no --peers: picsl-greedy, itk-elastix and convexAdam are left out", file=sys.stderr)
    tables: dict[str, Table] = {}
    figures: dict[str, float] = {}
    if options.only != "real":
        figures |= warps(options, tables)
    if options.only != "warps":
        figures |= real(options.scans, tables)
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
