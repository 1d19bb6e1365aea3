"""How well the predicted Dice of labels follows the true one, on simulated heads that are made worse step by step.

    python -m benchmarks.quality [--model zoo/regseg/heads] [--fitted 4] [--held-out 5] [--crop 64] [--heads DIR] [--write] [--save FILE]

Heads are of the demo's generator with a seed of their own, so that neither the model nor the calibration saw those that are held out:
the T1w without noise at 1.5 mm, the CT from rays without noise. A model for any modality (`--model zoo/regseg/any_contrast`) is shown
maps of structures of such heads, painted as those that it learned from (`cohortex.training.contrasts`). On the first heads the
calibration of every segmentation of the model is fitted (`cohortex.training.quality`), as a training does it on its validation
subjects; on the others its prediction is held against the Dice with the truth, for images as they are and with noise, blur, bias field
and lost contrast of four strengths. `once` looks at an image once, as the stage does by default; `again` also at a changed one
(`uncertainty: {samples: 1}`). `--write` puts the calibration into the card of the model (with `--crop 0`, since volumes are those of
whole heads there). Last line: FIGURE quality_spearman quality_mae (an image's mean Dice, all modalities, once), and the same for again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.measures.intervals import bootstrap_interval
from cohortex.models.folder import load_network, read_card, read_model, read_shown, write_model
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.grid import resample
from cohortex.models.regseg.quality import FEATURES, predicted_dice
from cohortex.models.regseg.segment import class_probabilities
from cohortex.models.regseg.tissues import followed
from cohortex.threads import set_threads
from cohortex.training.quality import SEVERITIES, Judged, Look, Seen, by_image, calibration, observations, rank_correlation, volumes_of
from cohortex.volume import ArrayLike

SEED = 90001
MODALITIES = {"T1w": ("t1", "t1a", "t1l"), "CT": ("ct", "cta", "ctl")}
ANY, EDGE = "any", 144
"""What painted heads are called, and how many voxels of the segmentation's spacing they have along each axis."""


def head(number: int, folder: Path) -> Path:
    """Return the file of a simulated head, made when it is not there: images, affines and labels."""
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.scans import ct_scan, mr_scan
    from cohortex.demo.table import traits

    path = folder / f"h{number}.npz"
    if not path.is_file():
        subject = f"q{number}"
        rngs = [np.random.default_rng([SEED, *what.encode(), *subject.encode()]) for what in ("head", "mr", "ct")]
        made = make_head(traits(subject, SEED), rngs[0])
        mr, ct = mr_scan(made, rngs[1]), ct_scan(made, rngs[2])
        images = {"t1": mr.truth.astype(np.float32), "ct": ct.clean.astype(np.float32)}
        np.savez(path, allow_pickle=False, **images, t1a=mr.affine_iso, t1l=mr.labels_iso, cta=ct.affine, ctl=ct.labels)
    return path


def painted_head(number: int, folder: Path, spacing_mm: float) -> Path:
    """Return the file of a map of a simulated head, painted in a realistic contrast and scanned at random, made when it is not there."""
    from cohortex.training.contrasts import CLASS_OF, random_map, scanned
    from cohortex.training.head_maps import simulated_map

    path = folder / f"p{number}.npz"
    if not path.is_file():
        rng = np.random.default_rng([SEED, 2, number])
        structures = simulated_map(rng)
        middle = np.array(structures.shape, float) / 2
        image, found = scanned(structures, random_map(EDGE, spacing_mm, middle, rng), EDGE, spacing_mm, rng, ordered=1.0, strip=0.25)
        np.savez(path, allow_pickle=False, image=image, known=CLASS_OF[found])
    return path


def judged(path: Path, modality: str, spacing_mm: float, crop: int) -> Judged:
    """Return a head as the stage gives it to the network, or so many voxels of its middle, and its labels there."""
    if modality == ANY:
        with np.load(path, allow_pickle=False) as file:
            start = (EDGE - crop) // 2 if crop else 0
            cut = (slice(start, start + crop if crop else None),) * 3
            return Judged(path.stem, file["image"][cut].astype(np.float16), np.asarray(file["known"][cut], np.uint8))
    image, affine, labels = MODALITIES[modality]
    with np.load(path, allow_pickle=False) as file:
        array, matrix, known = file[image], file[affine], file[labels]
    ready = prepare(array, matrix, modality)
    box = ready.box(spacing_mm)
    there = resample(known, matrix, box, mode="nearest", outside=0.0)
    # a little above the middle, where the brain is
    starts = [max(0, (n - crop) * part // 6) if crop else 0 for n, part in zip(box.shape, (3, 3, 4), strict=True)]
    cut = tuple(slice(a, a + crop if crop else None) for a in starts)
    return Judged(path.stem, ready.on(box)[cut].astype(np.float16), np.asarray(there[cut], np.uint8))


def observed(
    path: Path, modality: str, number: int, look: Look, card: Mapping[str, Any], volumes: Mapping[str, Any], cache: Path, crop: int
) -> Seen:
    """Return what is seen of a head, from the cache where it was looked at before by the same network."""
    spacing, names = float(card["extra"]["segment_spacing_mm"]), [str(c) for c in card["classes"]]
    known = hashlib.sha256(json.dumps([card["sha256"], volumes, SEVERITIES, crop], sort_keys=True).encode()).hexdigest()[:12]
    file = cache / f"{path.stem}-{modality}-{known}.json"
    if not file.is_file():
        seen = observations([judged(path, modality, spacing, crop)], look, names, spacing**3 / 1000, volumes, SEED + number)
        file.write_text(json.dumps(asdict(seen)), encoding="utf-8")
    told = json.loads(file.read_text(encoding="utf-8"))
    return Seen(told["rows"], told["labels"], told["true"], [(number, step) for _, step in told["images"]])


def joined(parts: Sequence[Seen]) -> Seen:
    """Return observations of several heads as one."""
    whole = Seen()
    for part in parts:
        for name, values in vars(part).items():
            getattr(whole, name).extend(values)
    return whole


def tried(fit: dict[str, Any], seen: Seen, again: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return predicted and true Dice of every label of every image, and of every image the means."""
    rows, labels, true, images = seen.rows, seen.labels, seen.true, seen.images
    used = [row if again else {name: row[name] for name in FEATURES} for row in rows]
    expected = np.array([predicted_dice({**fit, "volumes": {}}, {k: row}).get(k, np.nan) for k, row in zip(labels, used, strict=True)])
    known = np.isfinite(expected)
    kept = [image for image, known_one in zip(images, known, strict=True) if known_one]
    truth = np.array(true)[known]
    return expected[known], truth, by_image(kept, expected[known]), by_image(kept, truth)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % interval."""
    mean, low, high = bootstrap_interval(list(values))
    return float(mean), float(low), float(high)


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo/regseg/heads")
    parser.add_argument("--fitted", type=int, default=4)
    parser.add_argument("--held-out", type=int, default=5)
    parser.add_argument("--crop", type=int, default=64, help="edge in voxels of the middle of a head that is looked at; 0: the whole of it")
    parser.add_argument("--heads", type=Path, help="where heads are kept, and what was seen of them")
    parser.add_argument("--write", action="store_true")
    add_save(parser)
    options = parser.parse_args()
    if options.write and options.crop:
        parser.error("a calibration for the card is fitted on whole heads: --write goes with --crop 0")
    set_threads(1)
    heads = options.heads or Path(tempfile.mkdtemp(prefix="quality-"))
    heads.mkdir(parents=True, exist_ok=True)
    model = Path(options.model) if Path(options.model).is_dir() else ROOT / options.model
    card = read_card(model)
    spacing, names = float(card["extra"]["segment_spacing_mm"]), [str(c) for c in card["classes"]]
    modalities = [ANY] if card["modality"] == [ANY] else list(MODALITIES)
    run = Run("quality_any" if modalities == [ANY] else "quality", ["numpy", "torch"], module="quality")
    numbers = range(options.fitted + options.held_out)
    files = [painted_head(number, heads, spacing) if modalities == [ANY] else head(number, heads) for number in numbers]
    columns = {"images": "", "look": "", "n": "d", "true": ".3f", "lowest": ".3f", "MAE": ".3f", "low": ".3f", "high": ".3f"}
    table = Table({**columns, "rank": ".2f", "MAE a label": ".3f", "rank a label": ".2f"})
    fits: dict[str, Any] = {}
    together: dict[str, list[tuple[np.ndarray, ...]]] = {"once": [], "again": []}
    for modality in modalities:
        part = f"segment.{modality}" if f"segment.{modality}" in card["parts"] else "segment.any"
        network = load_network(model, "cpu", part)

        def look(values: ArrayLike, network: Any = network) -> ArrayLike:
            return followed(class_probabilities(network, values, len(names))[0], values, spacing, card)

        learnt = files[: options.fitted]
        volumes = volumes_of((judged(path, modality, spacing, options.crop).known for path in learnt), len(names), spacing**3 / 1000)
        seen = [observed(path, modality, number, look, card, volumes, heads, options.crop) for number, path in enumerate(files)]
        fitting = joined(seen[: options.fitted])
        fit = calibration(fitting, [str(number) for number, _ in fitting.images], volumes)
        if fit is None:
            print(f"{modality}: no calibration that predicts better than the means", flush=True)
            continue
        fits[modality] = fit
        print(f"{modality}: fitted, of subjects left out {fit['checked']}", flush=True)
        for kind in together:
            found = tried(fit, joined(seen[options.fitted :]), kind == "again")
            together[kind].append(found)
            table.add(*_row(modality, kind, found))
    figures: dict[str, float] = {}
    for kind, end in (("once", ""), ("again", "_again")):
        whole = tuple(np.concatenate(parts) for parts in zip(*together[kind], strict=True))
        table.add(*_row("all", kind, whole))
        figures[f"quality_spearman{end}"] = rank_correlation(whole[2], whole[3])
        figures[f"quality_mae{end}"] = float(np.abs(whole[2] - whole[3]).mean())
    if options.write:
        _, tensors = read_model(model)
        beside = {"training.json": (model / "training.json").read_bytes()} if read_shown(model) else None
        told = {k: v for k, v in card.items() if k != "sha256"}
        write_model(model, {**told, "extra": {**card["extra"], "quality": fits}}, tensors, beside)
    run.end({"images": table}, figures, options.save)


def _row(modality: str, kind: str, found: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    expected, true, means, truths = found
    errors = interval(np.abs(means - truths).tolist())
    lowest = float(truths.min())
    by_label = float(np.abs(expected - true).mean()), rank_correlation(expected, true)
    return modality, kind, len(means), float(truths.mean()), lowest, *errors, rank_correlation(means, truths), *by_label


if __name__ == "__main__":
    main()
