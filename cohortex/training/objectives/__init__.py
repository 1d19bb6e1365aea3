"""What a training makes small: objectives by name, with their options; importing this imports no torch.

An objective is more than a loss where it has networks of its own (a critic, a feature network), draws noise, or reads pairs of another
kind than a noisy and a clean image. `build` makes one by its name; `cohortex.training.loop.fit` trains with it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cohortex.errors import Refused

if TYPE_CHECKING:
    from cohortex.training.objectives.objective import Objective

Reads = Literal["pairs", "noisy", "halves", "projections", "registration"]


@dataclass(frozen=True)
class Kind:
    """One objective.

    Attributes
    ----------
    factory : str
        ``package.module:class``; the class takes the options by keyword.
    about : str
        What it makes small, and whose idea it is; goes into cards.
    reads : {"pairs", "noisy", "halves", "projections", "registration"}
        What source and target are. pairs: the input, and what the network is to make of it. noisy: the input alone, which is its own
        target. halves: two images of the same thing with independent noise. projections: reconstructions from some views, and from
        the others. Only the first looks at clean images. registration: a fixed and a moving image, and what is known of the two
        (`cohortex.training.objectives.registering`).
    options : mapping
        Every option with its default; an option that is not here is refused.
    """

    factory: str
    about: str
    reads: Reads = "pairs"
    options: Mapping[str, Any] = field(default_factory=dict)


_PIXEL, _CRITIC, _NOISY = (f"cohortex.training.objectives.{name}" for name in ("pixel", "adversarial", "noisy"))

_REGISTERING = "cohortex.training.objectives.registering"
_LIKENESS = {"similarity": "correlation", "window": 9, "smooth": 1.0, "smoothness": "diffusion", "folding": 0.0, "labels": 0.0}

_CRITICS = {"critic_rate": 1.0, "betas": (0.5, 0.9), "width": 64}

OBJECTIVES: dict[str, Kind] = {
    "squared_error": Kind(f"{_PIXEL}:SquaredError", "mean squared error"),
    "absolute_error": Kind(f"{_PIXEL}:AbsoluteError", "mean absolute error"),
    "smooth_absolute_error": Kind(
        f"{_PIXEL}:SmoothAbsoluteError", "root of squared error and width (Charbonnier et al., ICIP 1994)", options={"width": 1e-3}
    ),
    "coefficient_error": Kind(
        f"{_PIXEL}:CoefficientError", "mean squared error of the transform's coefficients (Kang et al., Med. Phys. 44(10), 2017)"
    ),
    "wgan_features": Kind(
        f"{_CRITIC}:WassersteinFeatures",
        "Wasserstein distance with gradient penalty and distance of features (after WGAN-VGG, Yang et al., IEEE TMI 37(6), 2018)",
        options={
            "penalty": 10.0,
            "feature_weight": 0.1,
            "pixel_weight": 0.0,
            "pixel_share": 0.0,
            "feature_steps": 300,
            "feature_width": 16,
            "critic_weight": 1.0,
            "critic_steps": 4,
            "hidden": 1024,
            **_CRITICS,
        },
    ),
    "wgan_structure": Kind(
        f"{_CRITIC}:WassersteinStructure",
        "Wasserstein distance with gradient penalty, MS-SSIM and L1 (SMGAN, You et al., IEEE Access 6, 2018)",
        options={"penalty": 10.0, "tau": 0.89, "critic_weight": 1e-3, "critic_steps": 4, "hidden": 1024, **_CRITICS},
    ),
    "least_squares_gan": Kind(
        f"{_CRITIC}:LeastSquares",
        "least-squares GAN, SSIM and L1 (Ma et al., IEEE Access 8, 2020)",
        options={"structure_weight": 0.5, "absolute_weight": 1.0, "critic_weight": 0.01, "critic_steps": 1, **_CRITICS},
    ),
    "blind_spot": Kind(
        f"{_NOISY}:BlindSpot",
        "squared error at pixels that the network does not see (Noise2Void, Krull et al. 2019; Noise2Self, Batson and Royer 2019)",
        "noisy",
        {"pitch": 4, "fill": "neighbour"},
    ),
    "sure": Kind(
        f"{_NOISY}:Stein",
        "Stein's unbiased risk estimate by a random probe (Ramani et al., IEEE TIP 17(9), 2008)",
        "noisy",
        {"step": 0.02},
    ),
    "recorrupted": Kind(
        f"{_NOISY}:Recorrupted",
        "squared error from one noisier image to another (Recorrupted2Recorrupted, Pang et al., CVPR 2021)",
        "noisy",
        {"share": 0.5},
    ),
    "halves": Kind(
        f"{_PIXEL}:SquaredError", "squared error from one half to the other (Noise2Noise, Lehtinen et al., ICML 2018)", "halves"
    ),
    "consensus": Kind(
        f"{_NOISY}:Consensus", "both halves foretell each other and agree (Wu et al., MICCAI 2019)", "halves", {"weight": 0.1}
    ),
    "noise2inverse": Kind(
        f"{_NOISY}:Halves",
        "squared error from reconstructions of most views to those of the others (Noise2Inverse, Hendriksen et al., IEEE TCI 6, 2020)",
        "projections",
    ),
    "heteroscedastic": Kind(
        "cohortex.training.objectives.resolving:Heteroscedastic",
        "likelihood under a mean and a variance of every voxel, and variational dropout's divergence (Tanno et al., MICCAI 2017)",
        options={"voxels": 1e7},
    ),
    "progressive_gan_features": Kind(
        "cohortex.training.objectives.resolving:ProgressiveGanFeatures",
        "squared error, Wasserstein critic, distances of features and of textures (after Lyu et al., IEEE TMI 39(9), 2020)",
        options={
            "penalty": 10.0,
            "pixel_weight": 1.0,
            "feature_weight": 1e-3,
            "texture_weight": 1e-4,
            "feature_steps": 300,
            "feature_width": 16,
            "critic_weight": 1e-4,
            "critic_steps": 1,
            "critic_rate": 1.0,
            "betas": (0.5, 0.9),
            "width": 16,
        },
    ),
    "images_alike": Kind(
        f"{_REGISTERING}:ImagesAlike",
        "likeness of the moved image and smoothness; overlap of labels where they have a weight (VoxelMorph, Balakrishnan et al., IEEE TMI "
        "38(8), 2019); negative Jacobian determinants where these have one (FAIM, Kuang and Schmah, MLMI 2019)",
        "registration",
        _LIKENESS,
    ),
    "known_displacement": Kind(
        f"{_REGISTERING}:KnownDisplacement",
        "distance from a known displacement: a classical registration's, or the one that a pair was simulated with",
        "registration",
        {"smooth": 0.0},
    ),
    "inverse_consistent": Kind(
        f"{_REGISTERING}:InverseConsistent",
        "likeness both ways, each way the other's inverse, no folding, smoothness (ICNet, Zhang, arXiv:1809.03443, 2018)",
        "registration",
        {"similarity": "squared_error", "window": 9, "smooth": 0.5, "inverse": 0.05, "antifold": 1e5},
    ),
    "affine_and_deformable": Kind(
        f"{_REGISTERING}:AffineAndDeformable",
        "likeness behind an affine network and behind a deformable one, smoothness of the second (ADMIR, Tang et al., IEEE Access 8, 2020)",
        "registration",
        {**_LIKENESS, "affine": 1.0},
    ),
}
"""All objectives by their name."""


def kind(name: str) -> Kind:
    """Return what is known of an objective.

    Raises
    ------
    Refused
        When there is none of that name; the sentence names the nearest one.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(OBJECTIVES)}."
        raise Refused(f"There is no objective {name!r}. {hint}")
    return OBJECTIVES[name]


def settings(objective: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and all options of an objective.

    Parameters
    ----------
    objective : str or mapping
        Its name, or ``{name: ..., option: value, ...}``.

    Raises
    ------
    Refused
        For an unknown name or option.
    """
    given = {"name": objective} if isinstance(objective, str) else dict(objective)
    name = str(given.pop("name", ""))
    known = kind(name).options
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Refused(f"The objective {name} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}.")
    return name, {**known, **given}


def build(objective: str | Mapping[str, Any]) -> Objective:
    """Build an objective; parameters and errors are those of `settings`."""
    name, options = settings(objective)
    module, _, made = OBJECTIVES[name].factory.partition(":")
    return getattr(importlib.import_module(module), made)(**options)


def overlaid(default: str | Mapping[str, Any], wanted: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an objective with the options of `default` where both name the same one, those of `wanted` above them."""
    below = {"name": default} if isinstance(default, str) else dict(default)
    if wanted is None:
        return below
    above = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    return {**below, **above} if above.get("name", below["name"]) == below["name"] else above
