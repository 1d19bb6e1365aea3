"""What every reader of foreign files gives back, and how several volumes in one file are treated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.io.slices import Averaged, Note
from cohortex.volume import ArrayLike, Kind, Volume

Frames = Literal["skip", "first", "mean", "each"]


def read_step(form: str, notes: Sequence[Note] = (), **facts: Any) -> dict[str, Any]:
    """Return the first history entry of a volume: how it was read and what was odd about it."""
    step: dict[str, Any] = {"step": "read", "format": form, **facts}
    if notes:
        step["notes"] = _told(notes)
    return step


def _told(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [{"code": code, "sentence": sentence} for code, sentence in dict.fromkeys(notes)]


def settled(volume: Volume) -> Volume:
    """Return a volume whose first history entry also tells what was found odd while its data were read."""
    late = getattr(volume.data, "odd", list)()
    if not late:
        return volume
    first = volume.history[0]
    return replace(volume, history=({**first, "notes": _told([*notes_of(volume), *late])}, *volume.history[1:]))


def notes_of(volume: Volume) -> list[Note]:
    """Return what the reader of a volume found odd; a volume that Cohortex wrote remembers the codes alone, which are not told again."""
    notes = [note for step in volume.history[:1] for note in step.get("notes", ()) if isinstance(note, Mapping)]
    return [(str(note["code"]), str(note["sentence"])) for note in notes]


def kind_of(role: str) -> Kind:
    """Return the kind of volume that a role of the cohort table stands for."""
    return "image" if role == "image" else "labels"


def chosen_frames(count: int, frames: Frames, name: str, what: str = "volumes") -> list[int]:
    """Return which of `count` volumes are to be read; ``mean`` needs all.

    Raises
    ------
    Skip
        ``four-d``: there are several, and the policy is to skip such series.
    """
    if count == 1 or frames == "first":
        return [0]
    if frames == "skip":
        raise Skip("four-d", f"{name} holds {count} {what}; set `acquire: volume:` to first, mean or each to use it.")
    return list(range(count))


def framed(
    frame_of: Callable[[int], ArrayLike],
    count: int,
    frames: Frames,
    affine: np.ndarray,
    role: str,
    name: str,
    step: Mapping[str, Any],
    **volume: Any,
) -> list[Volume]:
    """Make the volumes of a file that holds `count` of them, by policy.

    Parameters
    ----------
    frame_of : function
        Gives the (x, y, z) data of one volume, which may be lazy.
    frames : {"skip", "first", "mean", "each"}
        What to do with several.
    step : mapping
        The history entry of the reader.
    **volume
        Further fields of `Volume`.
    """
    wanted = chosen_frames(count, frames, name)
    kind = kind_of(role)
    if count > 1 and frames == "mean":
        if kind == "labels":
            raise BadInput(
                "bad-labels", f"{name} holds {count} label maps, and labels have no mean: set `acquire: volume:` to first or each."
            )
        mean = Averaged([frame_of(i) for i in wanted])
        return [Volume(mean, affine, kind=kind, history=({**step, "mean_of_volumes": count},), **volume)]
    facts = {} if count == 1 else {"volumes": count}
    return [
        Volume(frame_of(i), affine, kind=kind, history=({**step, **facts, **({"volume": i} if count > 1 else {})},), **volume)
        for i in wanted
    ]
