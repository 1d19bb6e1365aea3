"""Names of BIDS files: taken apart and put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

ENTITIES = (
    *("sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run", "mod", "echo"),
    *("flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording", "chunk", "seg", "res", "den", "label", "from", "to"),
    *("mode", "desc"),
)
"""In the order in which BIDS wants them in a name."""

EXTENSIONS = (".nii.gz", ".nii", ".ozx", ".nrrd", ".mha", ".h5", ".ome.zarr", ".ome.tif", ".tif")
"""The ends of files and folders that hold a volume."""

ANAT = {
    *(
        "T1w",
        "T2w",
        "PDw",
        "T2starw",
        "FLAIR",
        "PDT2",
        "inplaneT1",
        "inplaneT2",
        "angio",
        "UNIT1",
        "MTw",
        "VFA",
        "MEGRE",
        "MESE",
        "MPM",
        "MP2RAGE",
    ),
    *(
        "T1map",
        "T2map",
        "T2starmap",
        "R1map",
        "R2map",
        "R2starmap",
        "PDmap",
        "MTRmap",
        "MTsat",
        "T1rho",
        "IRT1",
        "MTR",
        "MTS",
        "PD",
        "T2star",
    ),
}
NOT_ALONE = {"IRT1", "MEGRE", "MESE", "MP2RAGE", "MPM", "MTR", "MTS", "MTw", "VFA"}
"""Of these, those that BIDS does not take for one derived image: members of file collections, and a suffix that it does not have."""
DATATYPES = {"dwi": "dwi", "ADC": "dwi", "bold": "func", "cbv": "func", "sbref": "func", "asl": "perf", "m0scan": "perf", "pet": "pet"}

_ENTITY = re.compile(r"([a-z]+)-([0-9A-Za-z+]+)\Z")
_SUFFIX = re.compile(r"[0-9A-Za-z]+\Z")


@lru_cache(maxsize=4096)
def _part(part: str) -> tuple[str, str] | None:
    found = _ENTITY.match(part)
    return (found[1], found[2]) if found else None


def parse_name(name: str) -> tuple[dict[str, str], str, str] | None:
    """Take a file name apart.

    Returns
    -------
    (entities, suffix, extension), or None when it is no BIDS name.

    Examples
    --------
    >>> parse_name("sub-001_run-2_T1w.nii.gz")
    ({'sub': '001', 'run': '2'}, 'T1w', '.nii.gz')
    """
    stem, dot, extension = name.partition(".")
    parts = stem.split("_")
    pairs = [_part(part) for part in parts[:-1]]
    if not dot or not pairs or None in pairs or not _SUFFIX.match(parts[-1]):
        return None
    return {pair[0]: pair[1] for pair in pairs if pair}, parts[-1], dot + extension


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Put a file name together, the entities in the order of BIDS and without those that are empty.

    Raises
    ------
    ValueError
        For an entity that BIDS does not have, or a value that is not ``[0-9A-Za-z+]+``.

    Examples
    --------
    >>> build_name({"desc": "cohortex", "sub": "001", "ses": ""}, "T1w", ".nii.gz")
    'sub-001_desc-cohortex_T1w.nii.gz'
    """
    unknown = set(entities) - set(ENTITIES)
    if unknown:
        raise ValueError(f"BIDS has no entity {min(unknown)}")
    pairs = [f"{key}-{entities[key]}" for key in ENTITIES if entities.get(key)]
    wrong = [pair for pair in pairs if not _ENTITY.match(pair)]
    if wrong:
        raise ValueError(f"{wrong[0]} is no BIDS entity: values are letters, digits and +")
    return "_".join([*pairs, suffix]) + extension


def datatype(modality: str) -> str:
    """Return the folder that a modality belongs into; for one that BIDS does not have, its name in lower case."""
    return "anat" if modality in ANAT else DATATYPES.get(modality, modality.lower() or "anat")


def folder(subject: str, session: str, modality: str) -> str:
    """Return ``sub-<id>[/ses-<id>]/<datatype>``."""
    return f"sub-{subject}/" + (f"ses-{session}/" if session else "") + datatype(modality)
