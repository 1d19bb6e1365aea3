"""What a stage function is given and what it gives back.

A stage of unit ``image`` is a function ``stage(image, settings, model, seed) -> Made | list[Made]`` of one
`Image`; a stage of unit ``subject`` is ``stage(images, settings, model, seed) -> list[Made]`` of all images of
a subject. It knows no file, no batch and no Snakemake. What it does not mention is passed on untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cohortex.config import settings_for as settings_for
from cohortex.volume import Volume

Status = Literal["ok", "warned", "skipped", "quarantined", "crashed", "failed"]
DEMO_SITE = "demo-simulator"
"""Value of the column site that marks a simulated image; a model with this scope (card: extra.cohort = demo) sees no other."""

SET_ASIDE: tuple[Status, ...] = ("quarantined", "crashed", "failed")
"""The statuses that count against the cohort."""

HEAD_LABELS = {1: "CSF", 2: "grey matter", 3: "white matter", 4: "bone", 5: "other soft tissue", 6: "lesion"}
"""What the labels of a segmented head mean, in the demo and where a model does not say it."""

Content = Volume | np.ndarray | Mapping[str, Any] | None


@dataclass(frozen=True)
class Image:
    """One thing of the stage before: an image, labels, a field, a transform or a table.

    Attributes
    ----------
    id : str
        ``subject[_session][_acq][_run]_suffix``, for derived things ``<id of the image>+<tag>``.
    kind : str
        image | labels | field | transform | table.
    role : str
        image | mask | labels, as the user's table says (what the pipeline derives has the role of its kind).
    entities : mapping
        BIDS entities beyond the source's: space, res, den, label, desc.
    sources : tuple of str
        Ids that this was made from.
    row : mapping
        The cohort table's row: site, scanner, pair, split, ... (strings).
    siblings : tuple of Image
        Other images of the subject, where the stage's settings name one for this image (`cohortex.stages.Stage.beside`).
    """

    id: str
    subject: str
    session: str
    modality: str
    kind: str
    role: str = "image"
    body_part: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    row: Mapping[str, str] = field(default_factory=dict)
    siblings: tuple[Image, ...] = field(default=(), repr=False, compare=False)
    opener: Callable[[], Content] = field(default=lambda: None, repr=False, compare=False)

    @cached_property
    def content(self) -> Content:
        """What is behind the id, read on first use."""
        return self.opener()

    @property
    def volume(self) -> Volume:
        """The content as a Volume (images, labels, fields)."""
        content = self.content
        if not isinstance(content, Volume):
            raise TypeError(f"{self.id} is a {self.kind}, not a volume")
        return content


@dataclass(frozen=True)
class Made:
    """One thing that a stage made, or its word on an image that it left as it is.

    Attributes
    ----------
    content : Volume, (4, 4) array, mapping or None
        Volume: an image, labels or field. Array: an affine transform, world of the fixed to world of the moving
        image in mm RAS. Mapping: a table (column to list of values). None: the image itself goes on untouched,
        with this row's status and measures.
    of : str
        Id of the image it belongs to; may be left empty by stages of unit ``image``.
    tag : str
        Empty when it replaces the image itself, else names the derived thing: ``of`` + "+" + ``tag`` is its id.
    measures : mapping
        The stage's own numbers for the manifest: float, int, bool or short str. Names carry units.
    previews : mapping
        Extra 8-bit pictures (rows, columns) or (rows, columns, 3) by name, beside the views that the runner makes.
    """

    content: Content = None
    of: str = ""
    tag: str = ""
    measures: Mapping[str, Any] = field(default_factory=dict)
    entities: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    status: Status = "ok"
    code: str = ""
    reason: str = ""
    previews: Mapping[str, np.ndarray] = field(default_factory=dict)


def told(precision: str, fallback: str) -> dict[str, str]:
    """Return the measures of how a network computed: ``precision`` where it was not float32, ``fallback`` where memory did not suffice."""
    found = {"precision": precision if precision != "float32" else "", "fallback": fallback}
    return {name: word for name, word in found.items() if word}
