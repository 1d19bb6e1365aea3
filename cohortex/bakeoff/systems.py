"""The systems of a bake-off, from the configuration: networks, methods of the stage without weights, filters, doing nothing.

The Snakefile imports this at every parse, so it imports nothing heavy.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

from cohortex.config import canonical, settings_for
from cohortex.errors import Refused
from cohortex.models.registry import entries
from cohortex.resources import MARGIN_MB, MARGIN_S, ROOMY_MB, Ask, Load, needs
from cohortex.schema import read_schema
from cohortex.tables import read_table

TASKS = ("denoise", "superresolve", "segment", "regseg", "classify", "recognize")
"""The tasks that have a bake-off."""

NOTHING = {"denoise": "noisy", "superresolve": "linear", "regseg": "affine", "classify": "prior"}
"""What doing nothing is called: the noisy image, the slices interpolated along straight lines, the affine start alone, the frequencies of
the classes among training subjects."""

RADIOMICS, BLOBS = "radiomics", "blobs"
"""Of `classify` the regression on radiomic features, of `recognize` the detector of blobs, which is not trained."""

PLANNED = "planned_unet"
"""The network that configures itself by the images: in a bake-off of `segment` it always runs."""

SECTIONS = {"segment": ("regseg",), "regseg": ("regseg",), "classify": ("classify",), "recognize": ("recognize",)}
"""Sections of the configuration that a task's systems depend on; of the others those of both restorations."""

LABELLED = ("segment", "regseg", "recognize")
"""Tasks whose trainings learn from images of role labels."""

Kind = Literal["network", "method", "filter", "nothing"]

ALONE = {"weights_otherwise": None, "segment_weights": None, "register_weights": None}
"""Of stage `regseg`, what a bake-off leaves out: a network that would do the work in the place of the system."""

CHOICE = ("method", "weights", "training", "precision")
"""Settings of a modality's own entry that do not hold in a bake-off, where the system is the one that is compared."""


@dataclass(frozen=True)
class System:
    """One system of a bake-off.

    Attributes
    ----------
    task, name : str
    kind : {"network", "method", "filter", "nothing"}
        A network of the registry, a method of the stage that needs no weights (of `classify`: no network), a filter of
        `cohortex.filters`, or nothing.
    section : mapping
        Settings of the stage (``default`` and entries by modality) for networks and methods, parameters of a filter. Of `segment`, which is
        no stage, what `cohortex.training.segment.train_segment` takes.
    """

    task: str
    name: str
    kind: Kind
    section: Mapping[str, Any]

    @property
    def weights(self) -> str:
        """Return what a system's weights are called: ``train``, or a model folder; empty where it has none."""
        has = self.kind == "network" or (self.task, self.kind) == ("classify", "method")
        return str(self.section["default"]["weights"]) if has else ""

    @property
    def trains(self) -> bool:
        """Return whether the bake-off trains it."""
        return self.weights == "train"

    def told(self) -> str:
        """Return the system as one canonical string."""
        return canonical(asdict(self))


def system_from(told: str) -> System:
    """Return the system that `System.told` wrote."""
    return System(**json.loads(told))


def systems_of(config: Mapping[str, Any], task: str) -> list[System]:
    """Return the systems of a bake-off, baselines first, each once.

    Parameters
    ----------
    config : mapping
        The whole checked configuration.
    task : str
        One of `TASKS`.

    Raises
    ------
    Refused
        For a name that is no system of the task (with the nearest one), or one that stands twice with other settings.
    """
    asked = config["bakeoff"][task]
    baselines, own = asked.get("baselines", []), {_name(entry) for entry in asked["candidates"]}
    always = [NOTHING[task]] if task in NOTHING else [PLANNED] if task == "segment" and PLANNED not in own else []
    against = asked["against"]
    named = [*baselines, *([against] if against not in {*map(_name, baselines), *always} | own else [])]
    found: dict[str, System] = {}
    for entry in [*always, *named, *asked["candidates"]]:
        system = _system(config, task, entry)
        if system != found.setdefault(system.name, system):
            raise Refused(f"bakeoff.{task} names {system.name} twice with different settings; give one of them another name.")
    return list(found.values())


def system_named(config: Mapping[str, Any], task: str, name: str) -> System:
    """Return one system of a bake-off by its name; any name that `systems_of` would take, also one that is not compared."""
    return next((system for system in systems_of(config, task) if system.name == name), None) or _system(config, task, name)


def changed(system: System, settings: Mapping[str, Any]) -> System:
    """Return a system with other settings; a key with dots reaches into a mapping, as ``training.steps`` does."""

    def put(mapping: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
        below = put(mapping.get(path[0]) or {}, path[1:], value) if len(path) > 1 else value
        return {**mapping, path[0]: below}

    inner = dict(system.section if system.kind == "filter" else system.section.get("default", {}))
    for key, value in settings.items():
        inner = put(inner, key.split("."), value)
    section = inner if system.kind == "filter" else {**system.section, "default": inner}
    return System(system.task, system.name, system.kind, section)


def grid(values: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Return all combinations of some settings in the order in which they are written, the last key changing fastest."""
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def _name(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def _system(config: Mapping[str, Any], task: str, entry: str | Mapping[str, Any]) -> System:
    name = _name(entry)
    own = dict((entry[name] if isinstance(entry, Mapping) else None) or {})
    special = {"segment": _segmenter, "regseg": _joint, "classify": _classifier, "recognize": _detector}
    if task in special:
        return special[task](config, name, own)
    networks, filters = {each.name for each in entries(task)}, set(filter_names()) if task == "denoise" else set()
    methods = set(read_schema(f"stages/{task}.json")["properties"]["method"]["enum"]) - networks - {"none"}
    if name == NOTHING[task] and not own:
        return System(task, name, "nothing", {})
    if name in filters and "method" not in own:
        return System(task, name, "filter", own)
    method = str(own.get("method", name))
    if method not in networks | methods:
        raise _unknown(task, method, {*networks, *methods, *filters, NOTHING[task]})
    section = {
        modality: {key: value for key, value in settings.items() if modality == "default" or key not in CHOICE}
        for modality, settings in config.get(task, {}).items()
    }
    base = dict(section.get("default", {}))
    if method in networks:
        # One budget for all: a system's own training settings say everything but how long.
        training = {**base.get("training", {}), **own.pop("training", {}), **config["bakeoff"][task]["training"]}
        fixed = {} if task == "denoise" else _at_factor(method, config["bakeoff"][task]["factor"])
        training = {**training, "options": {**fixed, **training.get("options", {})}} if fixed else training
        base |= {"weights": "train", **own, "method": method, "training": training}
        return System(task, name, "network", {**section, "default": base})
    base.pop("training", None)
    return System(task, name, "method", {**section, "default": {**base, "weights": None, **own, "method": method}})


def _segmenter(config: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> System:
    """Return a network of the task `segment`, trained, or a model folder that segments."""
    asked = config["bakeoff"]["segment"]
    # A model folder says itself which network it is.
    network = str(own.get("network", "" if own.get("weights", "train") != "train" else name))
    known = {each.name: each for each in entries("segment")}
    if network and network not in known:
        raise _unknown("segment", network, set(known))
    # What its paper lets shrink, a training here does not: labels are as large as the image.
    fixed = {"valid": False} if network and "valid" in known[network].options else {}
    options = {**fixed, **own.get("training", {}).get("options", {})}
    training = {**own.get("training", {}), **{key: asked["training"][key] for key in ("steps", "minutes")}}
    training = {**{key: value for key, value in asked["training"].items() if value is not None}, **training, "options": options}
    default = {"network": network, "weights": "train", "labels": asked["labels"], **own, "training": training}
    return System("segment", name, "network", {"default": default})


def _joint(config: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> System:
    """Return a way to bring pairs together: the affine start alone, a method of the stage `regseg`, or a jointly trained model."""
    asked, networks = config["bakeoff"]["regseg"], {each.name for each in entries("regseg")}
    methods = set(read_schema("stages/regseg.json")["properties"]["deformable"]["properties"]["method"]["enum"]) - {"network", "none"}
    base = {**config["regseg"]["default"], **ALONE}
    section = {
        modality: {key: value for key, value in settings.items() if key not in (*CHOICE, *ALONE, "deformable")}
        for modality, settings in config["regseg"].items()
    }
    method = str(own.get("deformable", {}).get("method", name if name in methods else "network"))
    if name == NOTHING["regseg"] or method == "none":
        found = _over(base, {**own, "weights": None, "deformable": {"method": "none"}})
        return System("regseg", name, "nothing" if name == NOTHING["regseg"] else "method", {**section, "default": found})
    if method in methods:
        found = _over(base, {**own, "weights": None, "deformable": {**own.get("deformable", {}), "method": method}})
        return System("regseg", name, "method", {**section, "default": found})
    given = own.get("network", {}).get("name", name if name in networks or not own else base["network"]["name"])
    if given not in networks:
        raise _unknown("regseg", given, networks | methods | {NOTHING["regseg"]})
    mine = (
        {"name": given, "options": own.get("network", {}).get("options", {})} if own.get("network") or name in networks else base["network"]
    )
    # A pair that its network is not for is left out: what stands in for it would be another system.
    deformable = {**own.get("deformable", {}), "method": "network", "otherwise": "none"}
    training = {**base["training"], **asked["training"], **own.get("training", {}), "minutes": asked["training"]["minutes"]}
    found = _over(base, {"weights": "train", **own, "deformable": deformable})
    return System("regseg", name, "network", {**section, "default": {**found, "network": mine, "training": training}})


def _classifier(config: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> System:
    """Return a classifier that is trained as the stage trains it, a model folder, or the frequencies of the classes."""
    base, known = config["classify"]["default"], {each.name for each in entries("classify")}
    if name == NOTHING["classify"] and not own:
        return System("classify", name, "nothing", {})
    _same_truth("classify", name, own, base, {"target": own.get("target"), "modalities": own.get("modalities", base["modalities"])[:1]})
    # Of a bake-off's models nothing is asked but the probabilities.
    base = {**base, "features": False, "why": None}
    if own.get("weights", "train") != "train":
        return System("classify", name, "network", {"default": {**base, **own, "features": False, "why": None}})
    given = own.get("network", {}).get("name", name if name in known else "")
    if not (given or own or name == RADIOMICS):
        raise _unknown("classify", name, {*known, RADIOMICS, NOTHING["classify"]})
    if given and given not in known:
        raise _unknown("classify", given, known)
    parts = own.get("parts", ["radiomics"] if name == RADIOMICS and not given else ["cnn"])
    mine = {"name": given, "options": own.get("network", {}).get("options", {})} if given else base["network"]
    training = {**base["training"], **own.get("training", {}), **config["bakeoff"]["classify"]["training"]}
    found = {**_over(base, own), "weights": "train", "parts": parts, "network": mine, "training": training}
    return System("classify", name, "network" if "cnn" in parts else "method", {"default": {**found, "features": False, "why": None}})


def _detector(config: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> System:
    """Return a network of the task `recognize`, trained, a model folder, or the detector of blobs."""
    base, known = config["recognize"]["default"], {each.name for each in entries("recognize")}
    _same_truth("recognize", name, own, base, {key: own.get(key) for key in ("labels", "modality")})
    of_blobs = {"diameters_mm": None, "bright": None}
    if name == BLOBS or set(own) & set(of_blobs):
        return System("recognize", name, "method", {"default": {**base, **of_blobs, **own, "weights": None}})
    if own.get("weights", "train") != "train":
        return System("recognize", name, "network", {"default": {**base, **own}})
    given = own.get("network", name if name in known or not own else base["network"])
    if given not in known:
        raise _unknown("recognize", given, {*known, BLOBS})
    training = {**base["training"], **own.get("training", {}), **config["bakeoff"]["recognize"]["training"]}
    return System("recognize", name, "network", {"default": {**base, **own, "weights": "train", "network": given, "training": training}})


def _same_truth(task: str, name: str, own: Mapping[str, Any], base: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse settings of a system that would give it another truth than the others have."""
    for key, value in asked.items():
        usual = base[key][:1] if isinstance(value, list) else base[key]
        if key in own and value != usual:
            raise Refused(
                f"bakeoff.{task} gives {name} {'other' if key == 'labels' else 'another'} {key} than {task}.default has; all systems are "
                f"compared on the same truth: say it there."
            )


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings laid over others, mapping by mapping."""
    found = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and key not in ("network", "segment_network", "labels")
        found[key] = _over(found[key], value) if both else value
    return found


def _unknown(task: str, name: str, known: set[str]) -> Refused:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return Refused(
        f"bakeoff.{task} names {name}, " + (f"did you mean {near[0]}?" if near else f"but there are: {', '.join(sorted(known))}.")
    )


def _at_factor(network: str, factor: int) -> dict[str, int]:
    """Return the option of a network that is built for one factor: that of the pairs."""
    found = next(entry for entry in entries("superresolve") if entry.name == network)
    return {} if found.expects.any_factor or "factor" not in found.options else {"factor": factor}


def edges_of(edge: int | Sequence[int]) -> list[int]:
    """Return how many voxels of an image are looked at along each axis: the setting ``edge`` is one number, or one for each axis."""
    return [edge] * 3 if isinstance(edge, int) else list(edge)


def filter_names() -> list[str]:
    """Return the names of the filters, without importing them."""
    return list(read_schema("stages/preprocess.json")["properties"]["filters"]["items"]["properties"])


def check_splits(config: Mapping[str, Any], task: str) -> None:
    """Check that the cohort has subjects to train on and to compare on.

    Raises
    ------
    Refused
        Naming what is missing.
    """
    rows = read_table(Path(config["work"]) / "cohort" / "cohort.tsv")
    splits = {row["split"] for row in rows}
    trained = [system.name for system in systems_of(config, task) if system.trains]
    mend = "give a column split, or more subjects (of the demo: demo.split)"
    if trained and "train" not in splits:
        raise Refused(f"the bake-off of {task} trains {', '.join(trained)}, but the cohort has no training subjects; {mend}.")
    if not splits & {"validation", "test"}:
        raise Refused(f"the bake-off of {task} compares on validation and test subjects, and the cohort has none; {mend}.")
    if task == "classify":
        check_classes(config, {row["subject"]: row["split"] for row in rows}, trained)
    of_use = ("labels", "boxes") if task == "recognize" else ("labels",)
    labelled = {row["split"] for row in rows if row["role"] in of_use}
    add = f"list them in the cohort's table (role {' or '.join(of_use)}; of the demo: demo.labelled)"
    if task in LABELLED and trained and "train" not in labelled:
        raise Refused(f"the bake-off of {task} trains {', '.join(trained)}, but no training subject has labels; {add}.")
    if task in ("segment", "recognize") and not labelled & {"validation", "test"}:
        raise Refused(f"the bake-off of {task} compares with labels, and no validation or test subject has any; {add}.")


def check_classes(config: Mapping[str, Any], splits: Mapping[str, str], trained: Sequence[str]) -> None:
    """Check that subjects have classes to learn and to be compared with.

    Parameters
    ----------
    config : mapping
    splits : mapping
        Of each subject of the cohort.
    trained : sequence of str
        The systems that are trained.

    Raises
    ------
    Refused
        Naming the column, and what is missing.
    """
    target, classes = config["classify"]["default"]["target"], classes_of(config)
    mend = "name another column under classify.default.target, or give a table of the subjects under labels"
    for asked, among in ((2 if trained else 0, ("train",)), (1, ("validation", "test"))):
        found = {classes[subject] for subject, split in splits.items() if split in among and classes.get(subject)}
        if len(found) < asked:
            raise Refused(
                f"the bake-off of classify needs {'two classes' if asked == 2 else 'a class'} in the column {target} among "
                f"{' and '.join(among)} subjects, and there {'is' if len(found) == 1 else 'are'} {len(found) or 'none'}; {mend}."
            )


def classes_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each subject that has one, by the column that stage `classify` learns."""
    file, target = Path(config["work"]) / "cohort" / "participants.tsv", config["classify"]["default"]["target"]
    people = read_table(file) if file.is_file() else []
    return {row["subject"]: row[target] for row in people if row.get(target, "") not in ("", "n/a")}


# --- what its jobs ask for ---------------------------------------------------------------------------------------

START_S = 60.0
"""Seconds for the start of a job: imports, compilation of kernels, preparing images."""


def ask_bakeoff(config: Mapping[str, Any], task: str, load: Load, trained: float = 0.0, scored: float = 0.0) -> Ask:
    """Return what a job of a bake-off takes at its first attempt.

    Parameters
    ----------
    config : mapping
    task : str
    load : Load
        All images of the cohort, of which the job looks at a few.
    trained, scored : float
        How many trainings it makes, and how often it restores all the images that are looked at.
    """
    # `segment` holds what the joint training does of its labelled images.
    asked, need = config["bakeoff"][task], needs()["train", "regseg" if task == "segment" else task]
    every = sum(part.images for part in load.parts)
    of_set = task in ("classify", "recognize")
    looked = min(2 * asked["images"], every) if of_set else 2 * asked["images"]
    # the training of a classifier reads every image, one after the other
    held_mb = sum(part.total_mb for part in load.parts) * min(1.0, 48 / max(every, 1)) if trained else 0.0
    largest_mb = max((part.largest_mb for part in load.parts), default=0.0)
    edge = asked.get("edge")
    voxels = prod(edges_of(edge)) if edge is not None else 1e6 * largest_mb / 4
    cut_mb = 4e-6 * voxels
    # what was measured is of small networks
    base_mb = max(need.base_mb, ROOMY_MB) if of_set and trained else need.base_mb
    memory = base_mb + need.held * held_mb + 12 * largest_mb + 40 * cut_mb
    # The slowest systems take some 200 s a million voxels on one core; each image is restored with and without lesions.
    score_s = scored * (looked * (5 + 100 * voxels / 1e6) + every if of_set else looked * (5 + 400 * voxels / 1e6))
    read = every if task == "classify" else min(every, 48)
    training_s = trained * (need.start_s + need.item_s * read + 60 * float(asked["training"]["minutes"]))
    disk = 500 + (0.0 if of_set else 8 * looked * cut_mb)
    return Ask(MARGIN_MB * memory, MARGIN_S * (START_S + training_s + score_s), disk)


def adjusted(config: Mapping[str, Any], task: str) -> tuple[System, list[dict[str, Any]]] | None:
    """Return the system whose settings are searched, and the settings that are tried; None where nothing is adjusted.

    Raises
    ------
    Refused
        For a system that there is not, or a setting that it does not have.
    """
    asked = config["bakeoff"][task].get("adjust")
    if asked is None:
        return None
    system = system_named(config, task, asked["system"])
    tried = grid(asked["grid"])
    for settings in tried:
        _check_settings(changed(system, settings), task)
    return system, tried


def _check_settings(system: System, task: str) -> None:
    from cohortex.schema import check

    if system.kind == "nothing":
        raise Refused(f"bakeoff.{task}.adjust names {system.name}, which has no settings; name a method, a filter or a network.")
    if system.kind == "filter":
        _, problems = check({"filters": [{system.name: dict(system.section)}]}, "stages/preprocess.json")
    else:
        _, problems = check(settings_for(system.section, "default"), f"stages/{task}.json")
    if problems:
        raise Refused(f"bakeoff.{task}.adjust: {problems[0]}")
