"""What the joint training sees: pairs on working grids, labelled crops, random contrast and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cohortex.blocks import at_hand
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.regseg.affine import align
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.grid import Grid, resample
from cohortex.models.regseg.pair import Pair, kind_of, most_common_kind, pairs_of
from cohortex.models.regseg.warp import sample, warp


@dataclass(frozen=True)
class Labelled:
    """An image and its labels on a grid of the segmentation's spacing: float16 and uint8 (X, Y, Z)."""

    subject: str
    split: str
    modality: str
    image: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Case:
    """A pair, affinely aligned, in the box around the fixed image's body.

    `fixed`, `moving` and `mask` (where both are known) are on the coarse grid of the registration; the `fine` ones, and the
    labels where the subject has both, on the grid of the segmentation. Images float16 within 0 and 1, labels uint8.
    """

    subject: str
    split: str
    grid: Grid
    fine_grid: Grid
    fixed: np.ndarray
    moving: np.ndarray
    mask: np.ndarray
    fixed_fine: np.ndarray
    moving_fine: np.ndarray
    fixed_labels: np.ndarray | None
    moving_labels: np.ndarray | None

    @property
    def labelled(self) -> bool:
        """Whether both images have labels."""
        return self.fixed_labels is not None and self.moving_labels is not None


@dataclass(frozen=True)
class Material:
    """All that a training uses: pairs of one kind, labelled images by modality, number of classes."""

    modalities: tuple[str, str]
    body_part: str
    cases: list[Case]
    labelled: list[Labelled]
    classes: int


def gather(images: Sequence[Image], settings: Mapping[str, Any], seed: int) -> Material:
    """Bring the images of the training and validation subjects onto their working grids.

    The kind of pair (fixed and moving modality) that most subjects have is trained; the affine is searched for each.

    Raises
    ------
    Refused
        When no pair or no labels are there.
    """
    subjects: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda i: i.id):
        subjects.setdefault(image.subject, []).append(image)
    labels = {image.id.rsplit("+", 1)[0]: image for image in images if image.role == "labels"}
    pairs = [p for own in subjects.values() for p in pairs_of(own, settings["pair"]) if p.fixed is not None]
    chosen = most_common_kind(pairs)
    if not chosen:
        raise Refused(
            "regseg: the training subjects have no pair of images by the rules under `pair`; give pairs, or name a trained model."
        )
    best = kind_of(chosen[0])
    chosen = at_most(chosen, labels, int(settings["training"]["pairs"]))
    if not any(i.id in labels for p in chosen for i in (p.moving, p.fixed) if i is not None):
        raise Refused(
            "regseg: no training subject has labels, without which the segmentation networks learn nothing; give some subjects "
            "rows of role `labels`, or name a trained model under `weights`."
        )
    splits = splits_of(chosen)
    labels = _at_most_labelled(chosen, labels, splits, settings["training"]["labelled"])
    cases: list[Case] = []
    single: list[Labelled] = []
    for pair in chosen:
        case = _case(pair, labels, settings, splits[pair.moving.subject], seed)
        cases.append(case)
        for modality, image, known in (
            (best[0], case.fixed_fine, case.fixed_labels),
            (best[1], case.moving_fine, case.moving_labels),
        ):
            if known is not None:
                single.append(Labelled(case.subject, case.split, modality, image, known))
    for modality in best[:2]:
        if not any(item.modality == modality and item.split == "train" for item in single):
            raise Refused(
                f"regseg: no training subject has labels of its {modality}; give some rows of role `labels` and modality {modality}."
            )
    top = max(int(item.labels.max()) for item in single)
    return Material((best[0], best[1]), best[2], cases, single, top + 1)


def at_most(pairs: Sequence[Pair], labels: Mapping[str, Image], most: int) -> list[Pair]:
    """Return at most so many pairs, taken evenly from those with and those without labels of every split."""
    groups: dict[tuple[str, bool], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.moving.row.get("split", ""), pair.moving.id in labels), []).append(pair)
    share = min(1.0, most / max(1, len(pairs)))
    return [pair for group in groups.values() for pair in group[: max(1, round(share * len(group)))]]


def _at_most_labelled(
    pairs: Sequence[Pair], labels: Mapping[str, Image], splits: Mapping[str, str], most: int | None
) -> Mapping[str, Image]:
    """Return the labels without those of training pairs beyond the first so many that have some: N of the M pairs."""
    if most is None:
        return labels
    having = [p for p in pairs if splits[p.moving.subject] == "train" and _ids(p) & labels.keys()]
    dropped = {i for p in having[most:] for i in _ids(p)}
    return {i: image for i, image in labels.items() if i not in dropped}


def _ids(pair: Pair) -> set[str]:
    return {image.id for image in (pair.moving, pair.fixed) if image is not None}


def splits_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the split of every subject; where the cohort names no validation subject, every fifth of the training ones."""
    splits = {p.moving.subject: p.moving.row.get("split") or "train" for p in pairs}
    if "validation" not in splits.values() and len(splits) >= 3:
        for i, subject in enumerate(sorted(splits)):
            if i % 5 == 2:
                splits[subject] = "validation"
    return splits


def _case(pair: Pair, labels: Mapping[str, Image], settings: Mapping[str, Any], split: str, seed: int) -> Case:
    assert pair.fixed is not None
    fixed, moving = (prepare(at_hand(i.volume.data)[0], i.volume.affine, i.modality) for i in (pair.fixed, pair.moving))
    spacing = float(settings["working_spacing_mm"])
    matrix = align(fixed.scan(), moving.scan(), "rigid" if pair.freedom == "rigid" else "affine", seed=seed).matrix
    grid, fine = fixed.box(spacing), fixed.box(float(settings["segment_spacing_mm"]))
    mask = fixed.body_on(grid) & moving.covers(grid, matrix)
    known = [labels_to(labels.get(i.id), fine, m) for i, m in ((pair.fixed, None), (pair.moving, matrix))]
    images = [fixed.on(grid), moving.on(grid, matrix), fixed.on(fine), moving.on(fine, matrix)]
    a, b, c, d = (image.astype(np.float16) for image in images)
    return Case(pair.moving.subject, split, grid, fine, a, b, mask, c, d, known[0], known[1])


def labels_to(image: Image | None, grid: Grid, matrix: np.ndarray | None) -> np.ndarray | None:
    """Return labels on a grid, uint8, `matrix` taking its world to theirs; None where there are none."""
    if image is None:
        return None
    volume = image.volume
    array, _ = at_hand(volume.data, volume.data.dtype)
    return resample(array, volume.affine, grid, matrix, mode="nearest", outside=0.0).astype(np.uint8)


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return labels (B, X, Y, Z) as (B, K, X, Y, Z) float32."""
    return torch.nn.functional.one_hot(labels.long().clamp(max=classes - 1), classes).permute(0, 4, 1, 2, 3).float()


def soft_labels(labels: np.ndarray, fine: Grid, grid: Grid, classes: int) -> torch.Tensor:
    """Return labels of the fine grid as class shares on the coarse grid, (1, K, X, Y, Z) float32."""
    return coarser(one_hot(torch.from_numpy(labels)[None], classes), fine, grid)


def coarser(probabilities: torch.Tensor, fine: Grid, grid: Grid) -> torch.Tensor:
    """Return class probabilities (1, K, ...) of the fine grid on the coarse one; beyond the fine grid all is background."""
    to_fine = np.linalg.inv(fine.affine) @ grid.affine
    scale = torch.tensor(np.diag(to_fine)[:3], dtype=torch.float32).reshape(3, 1, 1, 1)
    shift = torch.tensor(to_fine[:3, 3], dtype=torch.float32).reshape(3, 1, 1, 1)
    axes = [torch.arange(n, dtype=torch.float32) for n in grid.shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) * scale + shift
    if float(grid.spacing[0]) > float(fine.spacing[0]):
        # Averaging before looking up keeps thin layers that fall between the coarse points.
        probabilities = torch.nn.functional.avg_pool3d(probabilities, 3, stride=1, padding=1, count_include_pad=False)
    out = sample(probabilities, points[None].to(probabilities.device), exact=False)
    upper = torch.tensor(fine.shape).reshape(3, 1, 1, 1) - 0.5
    inside = ((points > -0.5) & (points < upper)).all(dim=0).to(out)
    background = torch.zeros_like(out)
    background[:, 0] = 1
    return out * inside + background * (1 - inside)


def other_contrast(image: torch.Tensor, modality: str, rng: np.random.Generator) -> torch.Tensor:
    """Return an image (1, 1, X, Y, Z) within 0 and 1 as another scanner might give it: gamma, window, shading, noise, thicker slices.

    Hounsfield units mean the same on every CT, and a few of them tell grey from white matter: those images get noise and thicker
    slices only, and a shift of about 2 HU.
    """
    calibrated = modality == "CT"
    if calibrated:
        out = image + float(rng.normal(0, 0.006))
    else:
        out = image.clamp(0, 1) ** float(np.exp(rng.uniform(-0.35, 0.35)))
        out = out * float(rng.uniform(0.85, 1.1)) + float(rng.uniform(-0.04, 0.04))
        if rng.random() < 0.5:
            corners = torch.from_numpy(rng.normal(0, 0.12, (1, 1, 3, 3, 3)).astype(np.float32)).to(image)
            out = out * torch.exp(torch.nn.functional.interpolate(corners, size=image.shape[2:], mode="trilinear", align_corners=True))
    if rng.random() < 0.3:
        kernel = [1, 1, 1]
        kernel[int(rng.integers(3))] = 3
        out = torch.nn.functional.avg_pool3d(out, kernel, stride=1, padding=[k // 2 for k in kernel], count_include_pad=False)
    if rng.random() < 0.7:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32) * np.float32(rng.uniform(0, 0.03 if calibrated else 0.05))
        out = out + torch.from_numpy(noise).to(image)
    return out.clamp(0, 1)


def random_displacement(shape: Sequence[int], rng: np.random.Generator, elastic: float, turn_deg: float, shift: float) -> torch.Tensor:
    """Return a random smooth displacement (1, 3, X, Y, Z) in voxels.

    `elastic` is the spread of its control points (one every dozen voxels), `turn_deg` and `shift` (voxels) those of a rigid part.
    """
    from cohortex.models.regseg.affine import rotation

    control = rng.normal(0, elastic, (1, 3, *(max(4, n // 12) for n in shape))).astype(np.float32)
    bent = torch.nn.functional.interpolate(torch.from_numpy(control), size=tuple(shape), mode="trilinear", align_corners=True)
    turned = torch.from_numpy((rotation(rng.normal(0, turn_deg, 3).tolist()) - np.eye(3)).astype(np.float32))
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    moved = torch.einsum("ij,jxyz->ixyz", turned, points) + torch.from_numpy(rng.normal(0, shift, (3, 1, 1, 1)).astype(np.float32))
    return bent + moved[None]


def labelled_crop(item: Labelled, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a turned, scaled, bent crop with another contrast (1, 1, n, n, n) and its labels (n, n, n), uint8."""
    shape = np.array(item.image.shape)
    # Most crops are centred on a label that is drawn first, a rare one (a small lesion) more often than a common one.
    centre = rng.uniform(0.2, 0.8, 3) * shape
    if rng.random() < 0.8:
        voxels = np.bincount(item.labels.ravel())
        weights = np.where(voxels, 1 / np.sqrt(np.maximum(voxels, 1)), 0)
        places = np.flatnonzero(item.labels == rng.choice(len(voxels), p=weights / weights.sum()))
        centre = np.array(np.unravel_index(places[rng.integers(len(places))], item.labels.shape), float)
    centre = np.clip(centre, size / 3, np.maximum(shape - size / 3, size / 3))
    low = np.maximum(np.floor(centre - size).astype(int), 0)
    high = np.minimum(low + 2 * size, shape)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    image = torch.from_numpy(item.image[cut].astype(np.float32))[None, None]
    labels = torch.from_numpy(item.labels[cut].astype(np.float32))[None, None]
    axes = [torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for _ in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) * torch.from_numpy(rng.uniform(0.85, 1.15, (3, 1, 1, 1)).astype(np.float32))
    moved = random_displacement((size, size, size), rng, elastic=0.8, turn_deg=10.0, shift=0.0)
    offset = torch.from_numpy((centre - low).astype(np.float32)).reshape(1, 3, 1, 1, 1)
    where = points[None] + moved + offset
    if rng.random() < 0.5:
        where = torch.cat([2 * offset[:, :1] - where[:, :1], where[:, 1:]], dim=1)
    known = sample(labels, where, "nearest", exact=False)[0, 0].to(torch.uint8)
    return other_contrast(sample(image, where, exact=False), item.modality, rng), known


def bent_pair(
    case: Case, modalities: tuple[str, str], rng: np.random.Generator, soft: tuple[torch.Tensor, torch.Tensor] | None, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Return fixed, moving and mask (1, 1, X, Y, Z) and soft labels of both, the moving one bent and turned a little further at random."""
    fixed, moving = (torch.from_numpy(x.astype(np.float32))[None, None].to(device) for x in (case.fixed, case.moving))
    mask = torch.from_numpy(case.mask.astype(np.float32))[None, None].to(device)
    if rng.random() < 0.75:
        further = random_displacement(case.grid.shape, rng, elastic=0.7, turn_deg=1.0, shift=0.3).to(device)
        moving = warp(moving, further)
        soft = None if soft is None else (soft[0], warp(soft[1], further))
    return other_contrast(fixed, modalities[0], rng), other_contrast(moving, modalities[1], rng), mask, soft
