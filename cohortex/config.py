"""What config.yaml may say, checked before anything is started.

The Snakefile imports this at every parse, in every job: nothing heavy is imported here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cohortex.errors import Refused
from cohortex.schema import check
from cohortex.stages import STAGES

MODALITIES = (
    *("T1w", "T2w", "FLAIR", "PDw", "PDT2", "PD", "T2starw", "T2star", "MTw", "inplaneT1", "inplaneT2", "angio", "UNIT1"),
    *("T1map", "T2map", "T2starmap", "PDmap", "MTRmap", "MTsat", "MTR", "MTS", "R1map", "R2map", "R2starmap", "VFA", "MEGRE", "MESE"),
    *("MPM", "MP2RAGE", "IRT1", "SWI", "swi", "minIP", "phase", "dwi", "ADC", "FA", "bold", "cbv", "sbref", "asl", "m0scan", "epi"),
    *("cine", "LGE", "DCE", "MR", "CT", "CBCT", "CTA", "XR", "CXR", "DX", "CR", "MG", "XA", "RF", "DSA"),
    *("US", "PET", "pet", "SPECT", "spect", "NM"),
    *("OCT", "fundus", "BF", "DF", "PC", "DIC", "FLUO", "CONF", "TEM", "SEM", "SPIM", "uCT", "MPE", "CARS", "PLI"),
)
"""The BIDS suffixes, and what stands in for one where BIDS has none, that a table may name without more ado."""


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check the whole configuration and fill in what it leaves out.

    Parameters
    ----------
    config : mapping
        As Snakemake has merged it from files and the command line.

    Returns
    -------
    dict
        The same with defaults, and numbers of the right type.

    Raises
    ------
    Refused
        With one line for each problem: an unknown key and the nearest known one, a wrong type with what was expected and found,
        a wrong value with those that are allowed, a chain of stages or a set of folders that cannot work.
    """
    strange = list(_strange(config, ""))
    if strange:
        raise Refused("\n".join(strange))
    checked, problems = check(dict(config), "config.schema.json")
    if not problems:
        problems = [*_chain(checked), *_selected(checked)]
    if problems:
        raise Refused("\n".join(problems))
    from cohortex.privacy.keys import check_privacy

    ratings = checked["ratings"]
    paths = [(key, checked[key]) for key in ("input", "output", "work", "labels")]
    for key, path in [*paths, *(("ratings", path) for path in (ratings if isinstance(ratings, list) else [ratings]))]:
        if str(path).startswith("~"):
            raise Refused(f"{key} begins with ~, which only a shell replaces; write the whole path.")
    _check_folders(checked)
    check_privacy(checked)
    return checked


LARGEST_NUMBER = 2**63


def _strange(value: Any, path: str) -> Iterator[str]:
    """Yield a problem for each value that is of no use anywhere: no schema has to think of it, and every message can show what is left."""
    where = path or "the configuration"
    if isinstance(value, Mapping):
        for key, below in value.items():
            if not isinstance(key, str | int | float) or any(True for _ in _strange(key, "")):
                yield f"{where} has a key that is no word and no plain number; write keys as words."
            else:
                yield from _strange(below, f"{path}.{key}" if path else str(key) or "''")
    elif isinstance(value, list | tuple):
        for i, below in enumerate(value):
            yield from _strange(below, f"{path}[{i}]")
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            yield f"{where} is text with a letter that no file or name can hold; write it again."
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{where} is {value}, expected a number that is finite."
    elif isinstance(value, int):
        if abs(value) > LARGEST_NUMBER:
            yield f"{where} is a number of more than 19 digits; write a smaller one."
    elif value is not None:
        yield f"{where} is a {type(value).__name__}, expected text, a number, true, false or null; put it in quotes."


def _chain(config: Mapping[str, Any]) -> Iterable[str]:
    stages = config["stages"]
    if stages[0] != "acquire":
        yield f"stages begins with {stages[0]}; put acquire first, it reads the images."
    if stages[-1] != "export":
        yield f"stages ends with {stages[-1]}; put export last, it writes the results."
    unused = [name for name in config["keep"] if name not in stages]
    if unused:
        yield f"keep names {', '.join(unused)}, which is not in stages; take it out there or put it in stages."


def _selected(config: Mapping[str, Any]) -> Iterable[str]:
    """Yield a problem for each modality in a stage's section that is a known one in the wrong case, such as t1w."""
    proper = {name.lower(): name for name in (*MODALITIES, *config["select"].get("suffix", ()))}
    names = {*MODALITIES, *config["select"].get("suffix", ())}
    for stage in STAGES:
        for modality in config[stage]:
            if not isinstance(modality, str):
                yield f"Unknown key {stage}.{modality}; a modality is a word, put it in quotes if it is one."
            elif modality != "default" and modality not in names and modality.lower() in (*proper, "default"):
                yield f"Unknown key {stage}.{modality}; did you mean {proper.get(modality.lower(), 'default')}?"


def _check_folders(config: Mapping[str, Any]) -> None:
    """Refuse folders of which one would be written into another that must stay as it is."""
    output, work = Path(config["output"]).resolve(), Path(config["work"]).resolve()
    if output == work:
        raise Refused("output and work are the same folder; give them different ones, work may be deleted after the run.")
    if output.is_relative_to(work):
        raise Refused("output lies inside work, which may be deleted after the run; give a folder outside it.")
    if config["input"] == "demo":
        return
    source = Path(config["input"]).resolve()
    for key, folder in (("output", output), ("work", work)):
        if folder == source:
            raise Refused(f"{key} and input are the same; give {key} a folder of its own, the input is never changed.")
        if folder.is_relative_to(source):
            raise Refused(f"{key} lies inside input; give it a folder outside, the input is never changed.")
        if source.is_dir() and source.is_relative_to(folder):
            raise Refused(f"input lies inside {key}; give {key} a folder of its own, the input is never changed.")


MOST_BYTES = 4 * 2**20
MOST_LEVELS = 40
MOST_VALUES = 100_000
"""What a configuration file may come to: its length, how deep it is nested, and its values with every alias written out."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+$|[0-9_]+:)")
"""1:30 is a number to the base of 60, 012 one to the base of 8."""


def check_files(paths: Iterable[str | Path]) -> None:
    """Check what is lost once configuration files are merged, and what must not be loaded.

    That is a key that stands twice, tags that would run code, numbers that mean others, values that no loader takes, and files that are
    nested or, by their aliases, repeated beyond all use.

    Raises
    ------
    Refused
        Naming file and line.
    """
    import yaml

    for path in map(Path, paths):
        if path.stat().st_size > MOST_BYTES:
            raise Refused(f"{path.name} has more than {MOST_BYTES >> 20} MB; give a configuration file.")
        try:
            loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
            if node is not None:
                _Looked(loader, path.name).size(node, 1)
                loader.construct_document(node)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" line {mark.line + 1}" if mark else ""
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not UTF-8 text"
            raise Refused(f"{path.name}{where} cannot be read as YAML: {what}.") from None
        except RecursionError:
            raise Refused(f"{path.name} is nested more than {MOST_LEVELS} levels deep; write it flat.") from None


class _Looked:
    """Looks at every node of a YAML file once, whatever the number of its aliases, and counts what they unfold to."""

    def __init__(self, loader: Any, file: str):
        self._loader = loader
        self._file = file
        self._sizes: dict[int, int | None] = {}

    def size(self, node: Any, level: int) -> int:
        """Return the values that a node stands for, each alias written out.

        Raises
        ------
        Refused
        """
        if id(node) not in self._sizes:
            self._sizes[id(node)] = None
            self._sizes[id(node)] = self._seen(node, level)
        size = self._sizes[id(node)]
        if size is None:
            raise self._refused(node, "holds an alias of itself; write out what is meant")
        if size > MOST_VALUES:
            raise self._refused(node, f"unfolds by its aliases to more than {MOST_VALUES} values; write out what is meant")
        return size

    def _refused(self, node: Any, what: str) -> Refused:
        return Refused(f"{self._file} line {node.start_mark.line + 1} {what}.")

    def _seen(self, node: Any, level: int) -> int:
        import yaml

        if level > MOST_LEVELS:
            raise self._refused(node, f"is nested more than {MOST_LEVELS} levels deep; write it flat")
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise Refused(f"{self._file} line {node.start_mark.line + 1}: the tag {node.tag} is not allowed; write a plain value.")
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self.size(value, level + 1) for value in node.value)
        if isinstance(node, yaml.MappingNode):
            return 1 + self._mapping(node, level)
        if node.tag in _NUMBERS and _OTHER_BASE.match(node.value):
            meant = yaml.safe_load(node.value)
            raise self._refused(node, f"has {node.value}, which means {meant} in YAML; write the number that you mean, or put it in quotes")
        try:
            self._loader.construct_object(node)
        except (ValueError, LookupError, TypeError, OverflowError):
            raise self._refused(node, "holds a number or date that cannot be; put it in quotes if it is text") from None
        return 1

    def _mapping(self, node: Any, level: int) -> int:
        import yaml

        first: dict[str, int] = {}
        size = 0
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refused(key, "has a list or a mapping as a key; write keys as words")
            name, at = str(key.value), key.start_mark.line + 1
            if name in first and name != "<<":
                raise Refused(f"{self._file} line {at}: the key {name} already stands on line {first[name]}; keep one of them.")
            first[name] = at
            size += self.size(key, level + 1) + self.size(value, level + 1)
        return size


def canonical(section: Any) -> str:
    """Return settings as one string that is the same for the same settings: sorted keys, 1.0 as 1, no white space.

    Examples
    --------
    >>> canonical({"b": 1.0, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(below) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [plain(below) for below in value]
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return int(value)
        return value

    return json.dumps(plain(section), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


TOGETHER = ("method", "weights")
"""Settings of a stage that mean something together only: who says one of them has said both."""


def let_said_win(config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Let what a user says under a stage's ``default`` hold for the modalities, too, that have entries of their own in config.yaml.

    The order is: the project's default, its entries of modalities, the user's default, the user's entries of modalities.

    Parameters
    ----------
    config : mapping
        The project's configuration overlaid by what the user said.
    said : mapping
        What the user said, in files and on the command line.

    Returns
    -------
    dict
        A new configuration.

    Examples
    --------
    >>> shipped = {"denoise": {"default": {"method": "none"}, "CT": {"method": "redcnn", "weights": "zoo/a", "strength": 2}}}
    >>> let_said_win(shipped, {"denoise": {"default": {"method": "none"}}})["denoise"]["CT"]
    {'strength': 2}
    """

    def without(own: Mapping[str, Any], by_default: Mapping[str, Any], by_user: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in own.items():
            if key not in by_default or (key in by_user and not isinstance(value, Mapping)):
                kept[key] = value
            elif isinstance(value, Mapping) and isinstance(by_default[key], Mapping):
                users = by_user.get(key)
                kept[key] = without(value, by_default[key], users if isinstance(users, Mapping) else {})
        return kept

    made = dict(config)
    for stage in STAGES:
        section, users = config.get(stage), said.get(stage)
        default = users.get("default") if isinstance(users, Mapping) else None
        if not isinstance(section, Mapping) or not isinstance(users, Mapping) or not isinstance(default, Mapping):
            continue
        both = dict.fromkeys(TOGETHER) if any(key in default for key in TOGETHER) else {}
        made[stage] = {
            modality: without(own, both | dict(default), theirs if isinstance(theirs := users.get(modality), Mapping) else {})
            if modality != "default" and isinstance(own, Mapping)
            else own
            for modality, own in section.items()
        }
    return made


def settings_for(section: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Return a stage's settings for a modality: ``default``, overlaid by the modality's own entry.

    Nested mappings are overlaid key by key; anything else is replaced.
    """

    def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(base)
        for key, value in top.items():
            below = merged.get(key)
            merged[key] = overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        return merged

    return overlay(section.get("default", {}), section.get(modality, {}))


WEIGHTS = {"weights": "train", "weights_otherwise": "", "segment_weights": "train segment", "register_weights": "train register"}
"""Settings that name model folders, and what a model that the workflow trains is called among those of the stage (one under
``weights_otherwise`` is never trained)."""
TRAINED_FOR = {"segment": "regseg", "register": "regseg"}
"""Trainings that have not the name of the stage that uses them."""


def is_trained(name: str) -> bool:
    """Say whether a name of `resolve_weights` stands for a model that the workflow trains."""
    return bool(name) and name in WEIGHTS.values()


def stage_of_training(task: str) -> str:
    """Return the stage that uses what a training makes."""
    return TRAINED_FOR.get(task, task)


def training_section(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the section that a training reads: that of its stage; of ``segment`` and ``register`` what regseg says of them.

    Raises
    ------
    Refused
        When ``segment_weights: train`` or ``register_weights: train`` stands at several modalities: one network is trained.
    """
    if task not in TRAINED_FOR:
        return dict(config.get(task, {"default": {}}))
    section = config.get(TRAINED_FOR[task], {})
    settings, key = section.get("default", {}), f"{task}_weights"
    own = [name for name, said in section.items() if name != "default" and said.get(key) == "train"]
    if len(own) > 1:
        raise Refused(
            f"regseg: {key}: train stands at {', '.join(own)}, and one network is trained; train one of them, keep its folder "
            f"(<work>/models/{task}) and name that at its modality, then train the next."
        )
    chosen = settings if not own else settings_for(section, own[0])
    training = dict(chosen.get(f"{task}_training", {}))
    if task == "segment":
        made = {"network": training.pop("network", "planned_unet"), "labels": chosen.get("labels", {}), "training": training}
    else:
        made = _registering(training, chosen) | {"pair": settings.get("pair", [])}
    if own and settings.get(key) != "train":
        made["modality"] = own[0]
    return {"default": made}


def _registering(training: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the training of a registration network reads; null counts as not said."""
    said = {name: value for name, value in training.items() if value is not None}
    network = {"name": said.pop("network", "voxelmorph_diffeomorphic"), "options": said.pop("options", {})}
    spacing_mm = said.pop("spacing_mm", chosen.get("working_spacing_mm", 3))
    return {"network": network, "pairs": said.pop("pairs", 60), "spacing_mm": spacing_mm, "training": said}


def resolve_weights(section: Mapping[str, Any], stage: str, work: str, basedir: str | Path) -> dict[str, str]:
    """Return the model folder behind each value of ``weights`` (also ``segment_weights`` and so on) anywhere in a stage's section.

    Parameters
    ----------
    section : mapping
        ``{default: ..., CT: ..., ...}``; a ``weights`` is a name, null, or a mapping of such by modality.
    stage : str
        ``train`` stands for ``<work>/models/<stage>``, of ``segment_weights`` for ``<work>/models/segment``, of ``register_weights`` for
        ``<work>/models/register``.
    basedir : path
        The folder of the Snakefile: ``zoo/...`` is looked for there first.

    Returns
    -------
    dict
        From the value as it is written to its folder (``train`` of ``segment_weights`` is called ``train segment``, see
        `WEIGHTS`); other relative folders are those of the working folder.
    """
    found: dict[str, str] = {}

    def folder(value: str) -> str:
        shipped = Path(basedir) / value
        return str(shipped) if value.startswith("zoo/") and shipped.exists() else str(Path(value))

    def take(value: Any, key: str) -> None:
        if value == "train":
            found[WEIGHTS[key]] = f"{work}/models/{stage if key == 'weights' else key.removesuffix('_weights')}"
        elif isinstance(value, str) and value:
            found[value] = folder(value)
        elif isinstance(value, Mapping):
            for below in value.values():
                take(below, key)

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for key, below in value.items():
                if key in WEIGHTS:
                    take(below, key)
                else:
                    walk(below)
        elif isinstance(value, list | tuple):
            for below in value:
                walk(below)

    walk(section)
    return dict(sorted(found.items()))
