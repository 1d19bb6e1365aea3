"""What labels, body parts and maps are called in DICOM: SNOMED CT codes for names that are known, a private scheme for others."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

SCHEME = "99COHORTEX"
"""Coding scheme of everything without a public code; DICOM keeps designators that begin with 99 for private ones."""


class Code(NamedTuple):
    """A coded concept."""

    value: str
    scheme: str
    meaning: str


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


ANATOMY = _sct("91723000", "Anatomical Structure")
TISSUE = _sct("85756007", "Tissue")
SUBSTANCE = _sct("91720002", "Body Substance")
ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
UNKNOWN = _sct("309825002", "Spatial and Relational Concept")
"""Category of a region of which only its own name is known."""

LABELS: dict[str, tuple[Code, Code]] = {
    "csf": (SUBSTANCE, _sct("65216001", "Cerebrospinal Fluid")),
    "grey matter": (TISSUE, _sct("389081007", "Gray Matter")),
    "white matter": (TISSUE, _sct("389080008", "White Matter")),
    "ventricles": (ANATOMY, _sct("35764002", "Brain ventricle")),
    "bone": (TISSUE, _sct("272673000", "Bone")),
    "skull": (ANATOMY, _sct("89546000", "Skull")),
    "soft tissue": (TISSUE, _sct("87784001", "Soft tissue")),
    "muscle": (TISSUE, _sct("71616004", "Muscle")),
    "fat": (TISSUE, _sct("256674009", "Fat")),
    "skin": (TISSUE, _sct("39937001", "Skin")),
    "lesion": (ABNORMAL, _sct("52988006", "Lesion")),
    "tumour": (ABNORMAL, _sct("108369006", "Neoplasm")),
    "nodule": (ABNORMAL, _sct("27925004", "Nodule")),
    "cyst": (ABNORMAL, _sct("367643001", "Cyst")),
    "edema": (ABNORMAL, _sct("79654002", "Edema")),
    "necrosis": (ABNORMAL, _sct("6574001", "Necrosis")),
    "hemorrhage": (ABNORMAL, _sct("50960005", "Hemorrhage")),
    "brain": (ANATOMY, _sct("12738006", "Brain")),
    "cerebellum": (ANATOMY, _sct("113305005", "Cerebellum")),
    "hippocampus": (ANATOMY, _sct("5366008", "Hippocampus")),
    "thalamus": (ANATOMY, _sct("42695009", "Thalamus")),
    "head": (ANATOMY, _sct("69536005", "Head")),
    "neck": (ANATOMY, _sct("45048000", "Neck")),
    "chest": (ANATOMY, _sct("816094009", "Chest")),
    "lung": (ANATOMY, _sct("39607008", "Lung")),
    "heart": (ANATOMY, _sct("80891009", "Heart")),
    "aorta": (ANATOMY, _sct("15825003", "Aorta")),
    "trachea": (ANATOMY, _sct("44567001", "Trachea")),
    "esophagus": (ANATOMY, _sct("32849002", "Esophagus")),
    "breast": (ANATOMY, _sct("76752008", "Breast")),
    "abdomen": (ANATOMY, _sct("818981001", "Abdomen")),
    "liver": (ANATOMY, _sct("10200004", "Liver")),
    "kidney": (ANATOMY, _sct("64033007", "Kidney")),
    "spleen": (ANATOMY, _sct("78961009", "Spleen")),
    "pancreas": (ANATOMY, _sct("15776009", "Pancreas")),
    "stomach": (ANATOMY, _sct("69695003", "Stomach")),
    "gallbladder": (ANATOMY, _sct("28231008", "Gallbladder")),
    "bladder": (ANATOMY, _sct("89837001", "Bladder")),
    "colon": (ANATOMY, _sct("71854001", "Colon")),
    "pelvis": (ANATOMY, _sct("816092008", "Pelvis")),
    "prostate": (ANATOMY, _sct("41216001", "Prostate")),
    "femur": (ANATOMY, _sct("71341001", "Femur")),
    "hip": (ANATOMY, _sct("29836001", "Hip")),
    "knee": (ANATOMY, _sct("72696002", "Knee")),
    "shoulder": (ANATOMY, _sct("16982005", "Shoulder")),
    "hand": (ANATOMY, _sct("85562004", "Hand")),
    "foot": (ANATOMY, _sct("56459004", "Foot")),
    "spine": (ANATOMY, _sct("421060004", "Spine")),
    "spinal cord": (ANATOMY, _sct("2748008", "Spinal cord")),
    "vertebra": (ANATOMY, _sct("51282000", "Vertebra")),
    "vessel": (ANATOMY, _sct("59820001", "Blood Vessel")),
    "eye": (ANATOMY, _sct("81745001", "Eye")),
    "retina": (ANATOMY, _sct("5665001", "Retina")),
}
"""Category and type of a segment by the name of its label, in lower case."""

SAME = {
    "cerebrospinal fluid": "csf",
    "fluid": "csf",
    "gm": "grey matter",
    "gray matter": "grey matter",
    "wm": "white matter",
    "ventricle": "ventricles",
    "other soft tissue": "soft tissue",
    "lesions": "lesion",
    "tumor": "tumour",
    "neoplasm": "tumour",
    "oedema": "edema",
    "haemorrhage": "hemorrhage",
    "bleeding": "hemorrhage",
    "cord": "spinal cord",
    "vessels": "vessel",
    "lungs": "lung",
}
"""Other words for the same."""

WHOLE = _sct("38266002", "Entire body")


def named(name: str) -> tuple[Code, Code]:
    """Return category and type of what a label is called; a private code where the name has no public one.

    Examples
    --------
    >>> named("Grey matter")[1]
    Code(value='389081007', scheme='SCT', meaning='Gray Matter')
    >>> named("label 7")[1]
    Code(value='label7', scheme='99COHORTEX', meaning='label 7')
    """
    word = " ".join(name.lower().replace("_", " ").split())
    found = LABELS.get(SAME.get(word, word))
    return found or (UNKNOWN, private(name))


def region(body_part: str) -> Code:
    """Return the code of a body part, of the whole body where it is not known."""
    found = LABELS.get(SAME.get(body_part, body_part))
    return found[1] if found else WHOLE


def private(name: str) -> Code:
    """Return a code of the private scheme; values have at most 16 characters and meanings 64, and two names never share a value."""
    meaning = printable(name)[:64] or "unnamed"
    value = re.sub(r"[^0-9A-Za-z]+", "", meaning)
    if not value or len(value) > 16 or value.lower() != re.sub(r"[ _]", "", meaning).lower():
        value = value[:8] + hashlib.sha256(name.encode()).hexdigest()[:8]
    return Code(value, SCHEME, meaning)


def printable(text: str) -> str:
    """Return text as a DICOM string may hold it: one line, no backslash."""
    return " ".join("".join(c if c.isprintable() and c != "\\" else " " for c in text).split())
