"""The papers behind what really ran, for the references of a methods section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cohortex.report.harmonise import Harmonised
from cohortex.report.records import Records

SNAKEMAKE = "Mölder F et al., Sustainable data analysis with Snakemake, F1000Research 2021, doi:10.12688/f1000research.29032.2"
BIDS = "Gorgolewski KJ et al., The brain imaging data structure, Sci Data 2016, doi:10.1038/sdata.2016.44"

BY_MEASURE = {
    ("preprocess", "bias_field_range"): (
        "bias field (N4)",
        "Tustison NJ et al., N4ITK: improved N3 bias correction, IEEE Trans Med Imaging 2010, doi:10.1109/TMI.2010.2046908",
    ),
    ("regseg", "mi_after"): (
        "mutual information",
        "Viola P, Wells WM, Alignment by maximization of mutual information, Int J Comput Vis 1997, doi:10.1023/A:1007958904918",
    ),
    ("regseg", "mind_after"): (
        "MIND",
        "Heinrich MP et al., MIND: modality independent neighbourhood descriptor, Med Image Anal 2012, doi:10.1016/j.media.2012.05.008",
    ),
    ("classify", "randomisation_check"): (
        "check of the maps of reasons",
        "Adebayo J et al., Sanity checks for saliency maps, NeurIPS 2018",
    ),
}
"""What a measure that some image has says was done."""

COMBAT = (
    (
        "ComBat",
        "Johnson WE, Li C, Rabinovic A, Adjusting batch effects in microarray expression data using empirical Bayes methods, "
        "Biostatistics 2007, doi:10.1093/biostatistics/kxj037",
    ),
    (
        "ComBat of images",
        "Fortin J-P et al., Harmonization of cortical thickness measurements across scanners and sites, NeuroImage 2018, "
        "doi:10.1016/j.neuroimage.2017.11.024",
    ),
)


def references(records: Records, models: list[dict[str, Any]], made: Harmonised) -> list[tuple[str, str]]:
    """Return what was used and its paper, each once, in the order of the chain.

    Parameters
    ----------
    records : Records
    models : list of dict
        Of `cohortex.report.methods.models`; those that saw no image are not cited.
    made : Harmonised
    """
    if not records.images:
        return []
    found = dict.fromkeys([("the workflow", SNAKEMAKE), *_of_measures(records)])
    for model in models:
        if model["images"]:
            found.update(dict.fromkeys(_papers(model["card"])))
    if made.parts:
        found.update(dict.fromkeys(COMBAT))
    if records.numbers.get("export"):
        found["the form of the results", BIDS] = None
    return list(found)


def _of_measures(records: Records) -> Iterator[tuple[str, str]]:
    for (stage, measure), told in BY_MEASURE.items():
        if any(measure in row.measures for row in records.told.get(stage, [])):
            yield told


def _papers(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the networks of a card, also those of its parts, and their papers, as the registry has them."""
    from cohortex.models.registry import entries

    parts = card.get("parts")
    named = [card, *(parts.values() if isinstance(parts, Mapping) else ())]
    names = list(dict.fromkeys(str(one.get("network", "")) for one in named if isinstance(one, Mapping)))
    # a model that registers and segments has networks of both tasks
    tasks = {card.get("task"), *(("segment",) if card.get("task") == "regseg" else ())}
    known = {one.name: one.paper for one in entries() if one.task in tasks}
    yield from ((name, known[name]) for name in names if known.get(name))
