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

Reads = Literal["pairs", "noisy", "halves", "projections"]


@dataclass(frozen=True)
class Kind:
    """One objective.

    Attributes
    ----------
    factory : str
        ``package.module:class``; the class takes the options by keyword.
    about : str
        What it makes small, and whose idea it is; goes into cards.
    reads : {"pairs", "noisy", "halves", "projections"}
        What source and target are. pairs: the input, and what the network is to make of it. noisy: the input alone, which is its own
        target. halves: two images of the same thing with independent noise. projections: reconstructions from some views, and from
        the others. Only the first looks at clean images.
    options : mapping
        Every option with its default; an option that is not here is refused.
    """

    factory: str
    about: str
    reads: Reads = "pairs"
    options: Mapping[str, Any] = field(default_factory=dict)


_PIXEL = "cohortex.training.objectives.pixel"

OBJECTIVES: dict[str, Kind] = {
    "squared_error": Kind(f"{_PIXEL}:SquaredError", "mean squared error"),
    "absolute_error": Kind(f"{_PIXEL}:AbsoluteError", "mean absolute error"),
    "smooth_absolute_error": Kind(
        f"{_PIXEL}:SmoothAbsoluteError", "root of squared error and width (Charbonnier et al., ICIP 1994)", options={"width": 1e-3}
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
