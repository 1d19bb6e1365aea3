"""What trainings of networks that segment make small: losses of logits and labels, all with one interface.

Every loss is a function ``loss(logits, labels, **options)``: logits (n, classes, ...) and labels (n, ...), integers, to a scalar, the mean
over the batch. `LOSSES` has them by name with their options; `loss_of` gives one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cohortex.errors import Refused

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

EPSILON = 1e-5


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return labels (n, ...) as (n, classes, ...) of zeros and ones, float32."""
    return functional.one_hot(labels.long(), classes).movedim(-1, 1).float()


def _counts(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return true positives, false positives and false negatives of each class of each image, (n, classes)."""
    p, y = torch.softmax(logits, 1), one_hot(labels, logits.shape[1])
    axes = tuple(range(2, p.ndim))
    true = (p * y).sum(axes)
    return true, (p * (1 - y)).sum(axes), ((1 - p) * y).sum(axes)


def _of_foreground(score: torch.Tensor, background: bool) -> torch.Tensor:
    return (score if background or score.shape[1] == 1 else score[:, 1:]).mean()


# --- voxel by voxel --------------------------------------------------------------------------------------------


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: Sequence[float] | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean negative logarithm of the true class's probability.

    Parameters
    ----------
    weights : sequence of float, optional
        Of the classes; the mean is then over the weights.
    smoothing : float
        Share of the target that is spread over all classes.
    """
    each = None if weights is None else torch.tensor(weights, dtype=logits.dtype, device=logits.device)
    return functional.cross_entropy(logits, labels.long(), weight=each, label_smoothing=smoothing)


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, power: float = 0.5, most: float = 20.0, unlabelled: int | None = None
) -> torch.Tensor:
    """Return cross-entropy with classes weighted by how rare they are in the batch, to a power, the mean over voxels being 1.

    Parameters
    ----------
    power : float
        0: all alike; 1: each class counts alike.
    most : float
        Largest weight.
    unlabelled : int, optional
        What voxels have that nobody labelled: they do not count, so that a few labelled slices of a volume can be learnt from (Cicek et
        al., MICCAI 2016).
    """
    if unlabelled is not None:
        known = labels != unlabelled
        logits, labels = logits.movedim(1, -1)[known].T[None], labels[known][None]
        if not labels.numel():
            # nothing to learn from, and gradients all the same
            return logits.sum()
    share = torch.bincount(labels.reshape(-1).long(), minlength=logits.shape[1]).to(logits) / labels.numel()
    raw = torch.where(share > 0, share.clamp_min(1e-9) ** -power, torch.zeros_like(share))
    weights = (raw / (raw * share).sum()).clamp(max=most)
    each = functional.cross_entropy(logits, labels.long(), reduction="none")
    return (each * weights[labels.long()]).mean()


def border_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weight: float = 10.0, sigma: float = 5.0) -> torch.Tensor:
    """Return cross-entropy weighted by `border_weights`, which are made of the labels (Ronneberger et al., MICCAI 2015)."""
    maps = np.stack([border_weights(each, weight, sigma) for each in labels.cpu().numpy()])
    each = functional.cross_entropy(logits, labels.long(), reduction="none")
    return (each * torch.from_numpy(maps).to(each)).mean()


def border_weights(labels: np.ndarray, weight: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Return 1 plus what makes narrow gaps between objects count, float32 (equation 2 of the U-Net paper without class weights).

    Parameters
    ----------
    labels : integer array of two or three axes
        0 is background; the objects are the connected parts of all other labels together.
    weight : float
        Of a background voxel that touches two objects.
    sigma : float
        Standard deviation in voxels of the sum of the distances to the two nearest objects.
    """
    from scipy import ndimage as ndi

    parts, count = ndi.label(labels > 0)  # pyright: ignore[reportGeneralTypeIssues]
    if count < 2:
        return np.ones(labels.shape, np.float32)
    two = np.full((2, *labels.shape), np.inf, np.float32)
    for number in range(1, count + 1):
        away = ndi.distance_transform_edt(parts != number)
        two = np.sort(np.concatenate([two, np.asarray(away, np.float32)[None]]), axis=0)[:2]
    gap = weight * np.exp(-((two[0] + two[1]) ** 2) / (2 * sigma**2))
    return (1 + gap * (labels == 0)).astype(np.float32)


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over classes of the cross-entropy of each against the rest, its logit being its own (a sigmoid each)."""
    return functional.binary_cross_entropy_with_logits(logits, one_hot(labels, logits.shape[1]).to(logits))


def likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the negative logarithm of the likelihood of an image's labels: cross-entropy summed over its voxels, not their mean."""
    return functional.cross_entropy(logits, labels.long(), reduction="sum") / len(labels)


def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0, weights: Sequence[float] | None = None) -> torch.Tensor:
    """Return cross-entropy times (1 - p) ** gamma: voxels that are right already count little (Lin et al., ICCV 2017).

    Parameters
    ----------
    weights : sequence of float, optional
        Of the classes, alpha in the paper.
    """
    log_p = functional.log_softmax(logits, 1).gather(1, labels.long()[:, None])[:, 0]
    loss = -((1 - log_p.exp()).clamp_min(0) ** gamma) * log_p
    if weights is not None:
        loss = loss * torch.tensor(weights, dtype=loss.dtype, device=loss.device)[labels.long()]
    return loss.mean()


def bootstrapped_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, share: float = 0.1) -> torch.Tensor:
    """Return the mean cross-entropy of the worst voxels of each image (Wu et al., arXiv:1605.06885, as FRRN was trained).

    Parameters
    ----------
    share : float
        Of the voxels.
    """
    each = functional.cross_entropy(logits, labels.long(), reduction="none").flatten(1)
    return each.topk(max(1, round(share * each.shape[1])), 1).values.mean()


# --- overlap ---------------------------------------------------------------------------------------------------


def dice(logits: torch.Tensor, labels: torch.Tensor, background: bool = False, pooled: bool = False) -> torch.Tensor:
    """Return 1 less the mean Dice of the classes (Drozdzal et al., LABELS 2016).

    Parameters
    ----------
    background : bool
        Whether class 0 counts.
    pooled : bool
        The batch is one image: classes that few of its images have are steadier.
    """
    counts = _counts(logits, labels)
    true, wrong, missed = (c.sum(0, keepdim=True) for c in counts) if pooled else counts
    return 1 - _of_foreground((2 * true + EPSILON) / (2 * true + wrong + missed + EPSILON), background)


def squared_dice(logits: torch.Tensor, labels: torch.Tensor, background: bool = False) -> torch.Tensor:
    """Return 1 less the mean Dice with squares in the denominator (V-Net, Milletari et al., 3DV 2016)."""
    p, y = torch.softmax(logits, 1), one_hot(labels, logits.shape[1])
    axes = tuple(range(2, p.ndim))
    score = (2 * (p * y).sum(axes) + EPSILON) / (p.square().sum(axes) + y.sum(axes) + EPSILON)
    return 1 - _of_foreground(score, background)


def generalised_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return 1 less the Dice of all classes together, each weighted by 1 over its squared volume (Sudre et al., DLMIA 2017)."""
    true, wrong, missed = _counts(logits, labels)
    volume = true + missed
    # a class that an image has not gets the largest weight that another one has, or its false positives would cost nothing
    weight = torch.where(volume > 0.5, volume.clamp_min(1).square().reciprocal(), torch.zeros_like(volume))
    weight = torch.where(volume > 0.5, weight, weight.amax(1, keepdim=True))
    return 1 - ((2 * (weight * true).sum(1) + EPSILON) / ((weight * (2 * true + wrong + missed)).sum(1) + EPSILON)).mean()


def tversky(logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.3, beta: float = 0.7, background: bool = False) -> torch.Tensor:
    """Return 1 less the mean Tversky index (Salehi et al., MLMI 2017); alpha and beta 0.5 is Dice.

    Parameters
    ----------
    alpha, beta : float
        Of false positives and of false negatives.
    """
    true, wrong, missed = _counts(logits, labels)
    return 1 - _of_foreground((true + EPSILON) / (true + alpha * wrong + beta * missed + EPSILON), background)


def focal_tversky(
    logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, background: bool = False
) -> torch.Tensor:
    """Return the mean of (1 - Tversky index) ** (1 / gamma) (Abraham and Khan, ISBI 2019)."""
    true, wrong, missed = _counts(logits, labels)
    index = (true + EPSILON) / (true + alpha * wrong + beta * missed + EPSILON)
    # the root has no finite slope at 0
    return _of_foreground((1 - index).clamp_min(1e-7) ** (1 / gamma), background)


def dice_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, dice_weight: float = 1.0, entropy_weight: float = 1.0) -> torch.Tensor:
    """Return the Dice of the classes but the background, over the batch, and cross-entropy (Isensee et al., Nat. Methods 18, 2021)."""
    return dice_weight * dice(logits, labels, pooled=True) + entropy_weight * cross_entropy(logits, labels)


def combo(logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.5, beta: float = 0.5) -> torch.Tensor:
    """Return alpha times a cross-entropy that trades one kind of error for the other, less (1 - alpha) times Dice.

    Combo loss (Taghanaki et al., Comput. Med. Imaging Graph. 75, 2019), plus a constant so that the best is 0.

    Parameters
    ----------
    alpha : float
        Of the cross-entropy against Dice.
    beta : float
        Above 0.5 false negatives cost more, below it false positives do.
    """
    p, y = torch.softmax(logits, 1).clamp(1e-7, 1 - 1e-7), one_hot(labels, logits.shape[1])
    entropy = -(beta * y * p.log() + (1 - beta) * (1 - y) * (1 - p).log())
    return alpha * _of_foreground(entropy.flatten(2).mean(2), False) + (1 - alpha) * dice(logits, labels)


# --- borders ---------------------------------------------------------------------------------------------------


def signed_distance(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the distance in voxels to the border of each class, negative within, (classes, ...) float32; 0 for one that is not there."""
    from scipy import ndimage as ndi

    made = np.zeros((classes, *labels.shape), np.float32)
    for label in range(classes):
        mask = labels == label
        if mask.any() and not mask.all():
            # between the outermost voxel within and the innermost one without
            made[label] = ndi.distance_transform_edt(~mask) - ndi.distance_transform_edt(mask)  # pyright: ignore[reportOperatorIssue]
            made[label] -= 0.5 * np.sign(made[label])
    return made


def boundary(logits: torch.Tensor, labels: torch.Tensor, weight: float = 0.01) -> torch.Tensor:
    """Return generalised Dice and the boundary loss: probabilities times the signed distance (Kervadec et al., MIDL 2019).

    Parameters
    ----------
    weight : float
        Of the boundary loss, whose values are in voxels.
    """
    classes = logits.shape[1]
    away = np.stack([signed_distance(each, classes) for each in labels.cpu().numpy()])
    p = torch.softmax(logits, 1)
    return generalised_dice(logits, labels) + weight * (p * torch.from_numpy(away).to(p))[:, 1:].mean()


def hausdorff(logits: torch.Tensor, labels: torch.Tensor, weight: float = 0.01, power: float = 2.0) -> torch.Tensor:
    """Return Dice and squared errors weighted by distances to both borders (Karimi and Salcudean, IEEE TMI 39(2), 2020).

    Parameters
    ----------
    weight : float
        Of the distances, in voxels to the power.
    power : float
    """
    classes = logits.shape[1]
    p, y = torch.softmax(logits, 1), one_hot(labels, classes)
    said = p.detach().argmax(1).cpu().numpy()
    maps = [
        np.abs(signed_distance(a, classes)) ** power + np.abs(signed_distance(b, classes)) ** power
        for a, b in zip(labels.cpu().numpy(), said, strict=True)
    ]
    away = torch.from_numpy(np.stack(maps)).to(p)
    return dice(logits, labels) + weight * ((p - y).square() * away)[:, 1:].mean()


# --- features of a critic --------------------------------------------------------------------------------------


def multi_scale_l1(
    features: Callable[[torch.Tensor], Sequence[torch.Tensor]], image: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the mean absolute difference of a critic's features of the image masked by what is said and by what is true, over levels.

    The critic makes it large, the network makes it small (SegAN, Xue et al., Neuroinformatics 16, 2018).

    Parameters
    ----------
    features : callable
        The critic: of (n, channels * (classes - 1), ...) it returns the features of each of its levels.
    image : (n, channels, ...) tensor
    logits : (n, classes, ...) tensor
    labels : (n, ...) tensor
    """
    said, true = torch.softmax(logits, 1)[:, 1:], one_hot(labels, logits.shape[1])[:, 1:]
    masked = [torch.cat([image * mask[:, k : k + 1] for k in range(mask.shape[1])], 1) for mask in (said, true)]
    pairs = zip(*(features(each) for each in masked), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], dict[str, Any]]] = {
    "cross_entropy": (cross_entropy, {"weights": None, "smoothing": 0.0}),
    "weighted_cross_entropy": (weighted_cross_entropy, {"power": 0.5, "most": 20.0, "unlabelled": None}),
    "border_cross_entropy": (border_cross_entropy, {"weight": 10.0, "sigma": 5.0}),
    "binary_cross_entropy": (binary_cross_entropy, {}),
    "likelihood": (likelihood, {}),
    "focal": (focal, {"gamma": 2.0, "weights": None}),
    "bootstrapped_cross_entropy": (bootstrapped_cross_entropy, {"share": 0.1}),
    "dice": (dice, {"background": False, "pooled": False}),
    "squared_dice": (squared_dice, {"background": False}),
    "generalised_dice": (generalised_dice, {}),
    "tversky": (tversky, {"alpha": 0.3, "beta": 0.7, "background": False}),
    "focal_tversky": (focal_tversky, {"alpha": 0.3, "beta": 0.7, "gamma": 4 / 3, "background": False}),
    "dice_cross_entropy": (dice_cross_entropy, {"dice_weight": 1.0, "entropy_weight": 1.0}),
    "combo": (combo, {"alpha": 0.5, "beta": 0.5}),
    "boundary": (boundary, {"weight": 0.01}),
    "hausdorff": (hausdorff, {"weight": 0.01, "power": 2.0}),
}
"""All losses by name, with their options; `multi_scale_l1` needs a critic too."""


def loss_of(wanted: str | Mapping[str, Any]) -> Loss:
    """Return a loss by name, or by ``{name: ..., option: value, ...}``.

    Raises
    ------
    Refused
        For a loss or an option that there is not; the sentence names the nearest one.
    """
    given = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    name = str(given.pop("name", ""))
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, 1)
        raise Refused(f"There is no loss {name!r}. " + (f"Did you mean {near[0]}?" if near else f"There are: {', '.join(LOSSES)}."))
    function, options = LOSSES[name]
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise Refused(f"The loss {name} has no option {unknown[0]!r}; it has: {', '.join(options) or 'none'}.")
    chosen = {**options, **given}
    return lambda logits, labels: function(logits, labels, **chosen)
