"""What the rows S01 to S11 state about systems that add resolution, each tried with small equal budgets on simulated heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.superresolve import demo_heads, loaded
from cohortex.demo.make import TRUTH
from cohortex.errors import Refused
from cohortex.io.nifti import read_nifti
from cohortex.items import Image
from cohortex.models.folder import Loaded
from cohortex.stages.superresolve import fed_by
from cohortex.training.superresolve import measured, train_superresolve
from cohortex.training.superresolve_pairs import Manner, degrade
from cohortex.volume import Volume

SEED = 31
TRAIN, TEST, EDGE = 3, 2, 72
"""Heads, and what of them is looked at: voxels along each axis."""

SECOND = np.array([0.0, 1.0, 0.55, 0.4, 0.1, 0.45, 0.85])
"""Brightness of the labels in the reference contrast, which is like a T2w: fluid is bright."""


@dataclass(frozen=True)
class Data:
    """Heads to learn from, other ones to be tested on, and what was trained so far."""

    train: list[Image]
    test: list[Image]
    folder: Path
    steps: int

    @property
    def images(self) -> list[Image]:
        """All, each with its split."""
        return [*self.train, *self.test]

    def trained(self, name: str, factors: Sequence[float], options: Mapping[str, Any] | None = None, **training: Any) -> Loaded:
        """Return a model of a system, trained with the budget of all."""
        settings = settings_of(name, options or {}, factors, {"steps": self.steps, "batch": 2, "patch": 12, "slices": 8, **training})
        called = "-".join([name, *(f"{key}={value}" for key, value in {**(options or {}), **training}.items()), *map(str, factors)])
        folder = self.folder / "".join(c if c.isalnum() or c in "-=." else "_" for c in called) / str(self.steps)
        if not folder.is_dir():
            train_superresolve(self.images, {"default": settings}, SEED, "cpu", folder)
        return loaded(folder)

    def gains(self, model: Loaded, factor: float, manner: Manner | None = None) -> np.ndarray:
        """Return the dB over the cubic spline of every test image."""
        settings = settings_of(model.card["network"], model.card.get("options", {}), (factor,), {})
        images = [image for image in self.test if image.modality == "T1w"]
        rows = [measured(model.network, fed_by(model), image, self.images, settings, factor, manner or Manner(), "cpu") for image in images]
        return np.array([made - plain for made, plain, _ in rows])


def settings_of(name: str, options: Mapping[str, Any], factors: Sequence[float], training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's settings for a system."""
    further = {"options": dict(options)} if options else {}
    return {
        "method": name,
        "reference": "T2w",
        "training": {**training, **further, "factors": [min(factors), max(factors)], "minutes": 600.0},
    }


def data(folder: Path, steps: int) -> Data:
    """Return heads in cubes of 1.5 mm: a T1w, and a second contrast of the same grid made from the labels."""
    images = demo_heads(folder / "heads", TRAIN + TEST, SEED, "proof")
    all_of: list[Image] = []
    for index, image in enumerate(images):
        row = {"split": "train" if index < TRAIN else "validation"}
        labels = read_nifti(folder / "heads" / TRUTH / image.subject / "labels_T1w_iso.nii.gz")
        rng = np.random.default_rng([SEED, index])
        bright = SECOND[np.clip(labels.array().astype(int), 0, 6)] * 500
        second = labels.with_data((bright + rng.normal(0, 5, bright.shape)).astype(np.float32), kind="image", modality="T2w")
        other = Image(f"{image.subject}_T2w", image.subject, "", "T2w", "image", body_part="head", row=row, opener=lambda v=second: v)
        all_of += [replace(each, row=row, opener=partial(middle, each)) for each in (image, other)]
    return Data(
        [i for i in all_of if i.row["split"] == "train"], [i for i in all_of if i.row["split"] != "train"], folder / "models", steps
    )


def middle(image: Image) -> Volume:
    """Return the middle of a head, `EDGE` voxels along each axis, so that a proof takes minutes."""
    volume = image.volume
    starts = [max(0, n // 2 - EDGE // 2) for n in volume.shape]
    return volume.with_data(volume.data[tuple(slice(a, a + EDGE) for a in starts)])


Found = dict[str, Any]


def verdict(row: str, numbers: Mapping[str, Any], **statements: bool) -> Found:
    """Print what was found and what of it holds; return the figures."""
    for name, value in numbers.items():
        print(f"{row}: {name.replace('_', ' ')} {value:.3f}")
    for name, holds in statements.items():
        print(f"{row}: {name.replace('_', ' ')}: {'holds' if holds else 'does not hold'}")
    return {"proof": row, **numbers, "verdict": "holds" if all(statements.values()) else "fails"}


def better(have: Data, row: str, factor: float, name: str, on: Mapping[str, Any], off: Mapping[str, Any], by: float = 0.0) -> Found:
    """Compare a system with its twin."""
    a, b = (float(have.gains(have.trained(name, (factor, factor), options), factor).mean()) for options in (on, off))
    return verdict(row, {"with_db": a, "without_db": b}, with_is_better=a - b >= by)


def mismatch(have: Data) -> Found:
    """Row S01: train on one way of making slices, test on each."""
    kinds = ("profile", "truncate", "kernel")
    small = {"channels": 16, "blocks": 3}
    table = np.zeros((3, 3))
    for i, trained_on in enumerate(kinds):
        model = have.trained("subslice", (3.0, 3.0), small, degradation=trained_on, even=True)
        for j, tested_on in enumerate(kinds):
            table[i, j] = have.gains(model, 3.0, Manner(degradation=tested_on)).mean()
        print(f"trained on {trained_on}: " + ", ".join(f"{k} {v:+.2f} dB" for k, v in zip(kinds, table[i], strict=True)), flush=True)
    own = float(np.diag(table).mean())
    other = float((table.sum() - np.trace(table)) / 6)
    return verdict("S01", {"own_db": own, "other_db": other}, another_degradation_costs=own > other)


def cardiac(have: Data) -> Found:
    """Row S02: five times through-plane at least 1 dB over cubic, and two views above one."""
    one, two = (
        float(have.gains(have.trained("cardiac_sr", (5.0, 5.0), {"factor": 5, "inputs": list(inputs)}), 5.0).mean())
        for inputs in (("image",), ("image", "view"))
    )
    return verdict("S02", {"one_view_db": one, "two_views_db": two}, over_cubic_by_1_dB=one >= 1, two_views_are_better=two > one)


def srcnn(have: Data) -> Found:
    """Row S03: at least 0.5 dB over the spline at x2."""
    gain = float(have.gains(have.trained("srcnn3d", (2.0, 2.0), None, patch=14, residual=True), 2.0).mean())
    return verdict("S03", {"gain_db": gain}, over_the_spline_by_half_a_dB=gain >= 0.5)


def context(have: Data) -> Found:
    """Row S04: context on above off, and above SRCNN3D."""
    on, off = (float(have.gains(have.trained("context_sr", (2.0, 2.0), {"context": c}), 2.0).mean()) for c in (True, False))
    third = float(have.gains(have.trained("srcnn3d", (2.0, 2.0), None, patch=14, residual=True), 2.0).mean())
    return verdict("S04", {"on_db": on, "off_db": off, "srcnn3d_db": third}, context_helps=on > off, beats_srcnn3d=on > third)


def hybrid(have: Data) -> Found:
    """Row S05: above SRCNN3D at x2 and x3; several branches above one."""
    found: dict[str, float] = {}
    for factor in (2.0, 3.0):
        ours = have.trained("hybrid_sr", (factor, factor), {"factor": int(factor)})
        found[f"x{factor:g}_db"] = float(have.gains(ours, factor).mean())
        other = have.trained("srcnn3d", (factor, factor), None, patch=14, residual=True)
        found[f"x{factor:g}_srcnn3d_db"] = float(have.gains(other, factor).mean())
    single = have.trained("hybrid_sr", (2.0, 2.0), {"factor": 2, "branches": 1})
    found["one_branch_db"] = float(have.gains(single, 2.0).mean())
    return verdict(
        "S05",
        found,
        beats_srcnn3d=found["x2_db"] > found["x2_srcnn3d_db"] and found["x3_db"] > found["x3_srcnn3d_db"],
        branches_help=found["x2_db"] > found["one_branch_db"],
    )


def bayesian(have: Data) -> Found:
    """Row S07: where it says that it is unsure it errs more (Spearman above 0.4), and by about as much as it says."""
    import torch
    from scipy.stats import spearmanr

    model = have.trained("bayesian_espcn", (2.0, 2.0), {"factor": 2})
    image = next(i for i in have.test if i.modality == "T1w")
    array = image.volume.array(np.float32)
    array = array[:, : array.shape[1] // 2 * 2] / np.float32(np.percentile(array, 99.5))
    slices, _ = degrade(array, 1, 2.0, Manner())
    lines = np.moveaxis(slices, 1, 2)[None, None]
    network: Any = model.network
    made, own, of_weights = (part[0, 0].numpy() for part in network.predict(torch.from_numpy(np.ascontiguousarray(lines))))
    truth = np.moveaxis(array, 1, 2)
    inside = truth > 0.1
    error, said = np.abs(made - truth)[inside], np.sqrt(own + of_weights)[inside]
    ranks: Any = spearmanr(error, said)
    rank = float(ranks.statistic)
    share = float((error <= 1.6449 * said).mean())
    return verdict("S07", {"spearman": rank, "inside_90_percent": share}, knows_where=rank > 0.4, calibrated=abs(share - 0.9) <= 0.1)


def saint(have: Data) -> Found:
    """Row S08: one model above cubic at x2, x4 and x6; fused above each view."""
    import torch

    model = have.trained("saint", (2.0, 6.0))
    found = {f"x{factor:g}_db": float(have.gains(model, factor).mean()) for factor in (2.0, 4.0, 6.0)}
    image = next(i for i in have.test if i.modality == "T1w")
    array = image.volume.array(np.float32)[16:48]
    array = array / np.float32(np.percentile(array, 99.5))
    slices, _ = degrade(array, 1, 4.0, Manner())
    lines = torch.from_numpy(np.ascontiguousarray(np.moveaxis(slices, 1, 2)))[None, None]
    network: Any = model.network
    with torch.no_grad():
        fused, *views = (part[0, 0].numpy() for part in network.estimates(lines, array.shape[1] / slices.shape[1]))
    truth = np.moveaxis(array, 1, 2)
    errors = [float(np.mean((made - truth) ** 2)) for made in (fused, *views)]
    found |= {"fused_over_best_view_db": 10 * float(np.log10(min(errors[1:]) / errors[0]))}
    above = min(found[f"x{factor}_db"] for factor in (2, 4, 6)) > 0
    return verdict("S08", found, above_cubic_everywhere=above, fusion_helps=found["fused_over_best_view_db"] > 0)


def residuals(have: Data) -> Found:
    """Row S09: global and local residuals above either alone."""
    kinds = {"both": (True, True), "local": (True, False), "global": (False, True)}
    found = {
        f"{name}_db": float(
            have.gains(have.trained("mglrl", (2.0, 2.0), {"local_residual": a, "global_residual": b}), 2.0).mean()
        )
        for name, (a, b) in kinds.items()
    }  # fmt: skip
    return verdict("S09", found, both_are_better=found["both_db"] > max(found["local_db"], found["global_db"]))


def jitter(made: np.ndarray, truth: np.ndarray) -> float:
    """Return how much the error changes from one fine slice to the next, as a share of how much the truth does."""
    error = made - truth
    return float(np.abs(np.diff(error, axis=2)).mean() / np.abs(np.diff(truth, axis=2)).mean())


def slabs(have: Data) -> Found:
    """Row S11: joining slices lowers the jitter between them."""
    from cohortex.models.superresolve.apply import run_fine

    found = {}
    image = next(i for i in have.test if i.modality == "T1w")
    array = image.volume.array(np.float32)[16:48]
    array = array / np.float32(np.percentile(array, 99.5))
    slices, start = degrade(array, 1, 3.0, Manner())
    lines, fine, truth = (np.moveaxis(each, 1, 2) for each in (slices, start, array))
    for name, fusion in (("joined", True), ("slicewise", False)):
        model = have.trained("slab_sr", (3.0, 3.0), {"fusion": fusion})
        found[f"{name}_jitter"] = jitter(run_fine(model.network, fed_by(model), lines, fine, {})[0], truth)
    return verdict("S11", found, joining_lowers_it=found["joined_jitter"] < found["slicewise_jitter"])


PROOFS: dict[str, Callable[[Data], Found]] = {
    "mismatch": mismatch,
    "S01": mismatch,
    "S02": cardiac,
    "S03": srcnn,
    "S04": context,
    "S05": hybrid,
    "S06": lambda have: better(have, "S06", 2.0, "csn", {"factor": 2, "split": True}, {"factor": 2, "split": False}),
    "S07": bayesian,
    "S08": saint,
    "S09": residuals,
    "S10": lambda have: better(
        have, "S10", 3.0, "progressive_sr", {"inputs": ["image", "reference"]}, {"inputs": ["image"]}, 0.5
    ),
    "S11": slabs,
}  # fmt: skip


def prove(row: str, folder: Path, steps: int) -> Found:
    """Try the statement of a row.

    Raises
    ------
    Refused
        For a row that is not here.
    """
    if row not in PROOFS:
        raise Refused(f"There is no proof {row!r}; there are: {', '.join(PROOFS)}.")
    return PROOFS[row](data(folder / "proofs", steps))
