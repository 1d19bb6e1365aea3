"""What the page says of models, software and settings, in words for a methods section."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cohortex.report.charts import short
from cohortex.report.classes import is_probability
from cohortex.report.measures import spoken
from cohortex.report.records import Records, Row, number
from cohortex.report.training import trained

_SPOKEN = {
    "acquire": "were read, brought into the closest canonical orientation and checked",
    "deface": "were defaced",
    "preprocess": "were preprocessed",
    "denoise": "were denoised",
    "superresolve": "were brought to a finer through-plane resolution",
    "regseg": "were registered or segmented with the others of their subject",
    "recognize": "were searched for findings",
    "classify": "were described by features or classified",
    "export": "were written as BIDS derivatives",
}


def models(records: Records) -> list[dict[str, Any]]:
    """Return the cards of the models that were at hand, each once, with the stages that had it and the number of images that it saw."""
    found: dict[str, dict[str, Any]] = {}
    for stage, batches in records.numbers.items():
        for numbers in batches.values():
            for name, model in (numbers.get("models") or {}).items():
                card, sha256 = model.get("card") or {}, model.get("sha256", "")
                called = card.get("name") or without_place(name)
                if (sha256 or name) not in found:
                    told = {"metrics": _metrics(card), "trained": trained(card, model.get("shown") or {})}
                    found[sha256 or name] = {"name": called, "sha256": sha256, "card": card, "stages": [], "images": 0, **told}
                entry = found[sha256 or name]
                if stage not in entry["stages"]:
                    entry["stages"].append(stage)
                    entry["images"] += sum(_saw(row, called) for row in records.told.get(stage, []))
    return list(found.values())


def _saw(row: Row, model: str) -> bool:
    """Say whether a row tells that a model worked on its image: by name, by its deformation, or by class probabilities."""
    if row.measures.get("register_model"):
        return model in (row.measures["register_model"], row.measures.get("model"))
    named = row.measures.get("model")
    if named:
        return named == model
    deformed = row.measures.get("deformation") in ("kept", "left-out") and "network" in row.measures.get("deformed_by", "network")
    return deformed or any(is_probability(name) for name in row.measures)


def _metrics(card: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and the words after it of a card's held-out results."""
    found = []
    for metric in card.get("metrics") or []:
        value, low, high = (number(metric.get(name)) for name in ("value", "low", "high"))
        words = f" (95 % interval {short(low)} to {short(high)})" if low is not None and high is not None else " (no interval given)"
        words += "".join(
            f", {joint} {metric[name]}" for name, joint in (("n", "n ="), ("against", "against"), ("on", "on")) if metric.get(name)
        )
        found.append((_named(str(metric.get("name", "")), card), "not known" if value is None else short(value), words))
    return found


def _named(metric: str, card: Mapping[str, Any]) -> str:
    """Return a metric's name in words; a number at its end is that of a class: ``dice_CT_2`` is "Dice CT grey matter"."""
    if " " in metric:
        return metric
    classes = [str(name).replace("_", " ") for name in card.get("classes") or []]
    head, _, last = metric.rpartition("_")
    if head and last.isdigit() and int(last) < len(classes):
        return f"{spoken(head)[0]} {classes[int(last)]}"
    words, unit = spoken(metric)
    return f"{words} ({unit})" if unit else words


def software(records: Records) -> list[tuple[str, str]]:
    """Return name and version of the software; all versions where the jobs did not agree."""
    found: dict[str, set[str]] = defaultdict(set)
    for batches in records.numbers.values():
        for numbers in batches.values():
            for name, version in (numbers.get("software") or {}).items():
                found[name].add(str(version))
    return [(name, ", ".join(sorted(versions))) for name, versions in found.items()]


def settings(config: Mapping[str, Any]) -> str:
    """Return the configuration as run, as YAML; of absolute paths only the last part, for the page may travel."""
    import yaml

    return yaml.safe_dump(_without_places(dict(config)), sort_keys=False, allow_unicode=True, width=100)


def paragraph(records: Records, config: Mapping[str, Any]) -> str:
    """Return a paragraph on what was done, for the methods section of a paper."""
    rows = [records.cohort[name] for name in records.images]
    if not rows:
        return "No image was processed."
    modalities = ", ".join(
        f"{count} {name or 'of unknown modality'}" for name, count in Counter(row.get("modality", "") for row in rows).most_common()
    )
    subjects = len({row.get("subject") for row in rows})
    versions = dict(software(records))
    ran = [stage for stage in records.stages if records.numbers.get(stage)]
    sentences = [
        f"{len(rows)} images ({modalities}) of {subjects} subject{'s' if subjects != 1 else ''} were processed with Cohortex "
        f"{versions.get('cohortex', '')} (Python {versions.get('python', '')}; seed {config.get('seed', 'not given')})."
    ]
    for stage in ran:
        section = next((numbers.get("section") for numbers in records.numbers[stage].values() if numbers.get("section")), {})
        done = [row for row in records.told.get(stage, []) if row.is_image and row.status in ("ok", "warned") and row.measures]
        if not done:
            sentences.append(f"The stage {stage} left all of them as they were.")
            continue
        number_of = "they" if len(done) == len(rows) else f"{len(done)} of them"
        sentences.append(f"In the stage {stage} {number_of} {_SPOKEN.get(stage, 'were processed')}{_choices(section or {})}{_used(done)}.")
    used = [model for model in models(records) if model["images"]]
    if used:
        named = "; ".join(f"{model['name']} (sha256 {model['sha256'][:12]}) in {', '.join(model['stages'])}" for model in used)
        sentences.append(f"Learned models: {named}.")
        sentences += _followed(records, used)
    sentences.append("Images that could not be used were set aside with a reason and are listed in the report and in manifest.tsv.")
    if records.simulated:
        sentences.append(f"{len(records.simulated)} of the images are simulated.")
    return " ".join(sentences)


def _followed(records: Records, used: list[dict[str, Any]]) -> list[str]:
    """Return what is to be said of labels that followed the images' own intensities (`cohortex.models.regseg.tissues`)."""
    section = next((numbers.get("section") for numbers in records.numbers.get("regseg", {}).values() if numbers.get("section")), {})
    told = [settings for settings in (section or {}).values() if isinstance(settings, Mapping)]
    chosen = {settings["intensities"] for settings in told if "intensities" in settings} or {"auto"}
    names = [m["name"] for m in used if "regseg" in m["stages"] and (m["card"].get("extra") or {}).get("tissues")]
    if not names or chosen == {"none"}:
        return []
    return [
        f"The tissues labelled by {' and '.join(names)} follow the intensities of each image itself: a mixture of normal distributions, "
        "fitted by expectation maximisation with the network's probabilities as prior."
    ]


def _used(rows: list[Row]) -> str:
    """Return the methods that were really used, where the rows tell."""
    methods = Counter(row.measures["method"] for row in rows if row.measures.get("method"))
    return f"; used were {', '.join(f'{name} ({count})' for name, count in methods.most_common())}" if methods else ""


def _choices(section: Mapping[str, Any]) -> str:
    """Return the methods that a section chooses, by modality."""
    words = []
    for modality, chosen in section.items():
        if isinstance(chosen, Mapping):
            named = [f"{key} {without_place(value)}" for key, value in chosen.items() if isinstance(value, str) and value]
            if named:
                words.append(f"{'by default' if modality == 'default' else modality}: {', '.join(named[:6])}")
    return f" ({'; '.join(words)})" if words else ""


def without_place(text: Any) -> str:
    """Return a text; of an absolute path only the last part."""
    text = str(text)
    return f"…/{PurePosixPath(text).name}" if text.startswith(("/", "~")) else text


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_places(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_places(entry) for entry in value]
    return without_place(value) if isinstance(value, str) else value
