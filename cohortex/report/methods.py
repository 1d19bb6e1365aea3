"""What the page says of models, software and settings, in words for a methods section."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cohortex.report.charts import short
from cohortex.report.records import Records, number

_SPOKEN = {
    "acquire": "were read, brought into the closest canonical orientation and checked",
    "preprocess": "were preprocessed",
    "denoise": "were denoised",
    "superresolve": "were brought to a finer through-plane resolution",
    "regseg": "were registered and segmented subject by subject",
    "classify": "were classified subject by subject",
    "export": "were written as BIDS derivatives",
}


def models(records: Records) -> list[dict[str, Any]]:
    """Return the cards of the models that were used, each once, with the stages that used it."""
    found: dict[str, dict[str, Any]] = {}
    for stage, batches in records.numbers.items():
        for numbers in batches.values():
            for name, model in (numbers.get("models") or {}).items():
                card, sha256 = model.get("card") or {}, model.get("sha256", "")
                called = card.get("name") or _short_path(name)
                fresh = {"name": called, "sha256": sha256, "card": card, "stages": [], "metrics": _metrics(card)}
                entry = found.setdefault(sha256 or name, fresh)
                if stage not in entry["stages"]:
                    entry["stages"].append(stage)
    return list(found.values())


def _metrics(card: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and the words after it of a card's held-out results."""
    found = []
    for metric in card.get("metrics") or []:
        value, low, high = (number(metric.get(name)) for name in ("value", "low", "high"))
        words = f" (95 % interval {short(low)} to {short(high)})" if low is not None and high is not None else " (no interval given)"
        words += "".join(
            f", {joint} {metric[name]}" for name, joint in (("n", "n ="), ("against", "against"), ("on", "on")) if metric.get(name)
        )
        found.append((str(metric.get("name", "")), "not known" if value is None else short(value), words))
    return found


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
        sentences.append(f"In the stage {stage} they {_SPOKEN.get(stage, 'were processed')}{_choices(section or {})}.")
    used = models(records)
    if used:
        named = "; ".join(f"{model['name']} (sha256 {model['sha256'][:12]}) in {', '.join(model['stages'])}" for model in used)
        sentences.append(f"Learned models: {named}.")
    sentences.append("Images that could not be used were set aside with a reason and are listed in the report and in manifest.tsv.")
    if records.simulated:
        sentences.append(f"{len(records.simulated)} of the images are simulated.")
    return " ".join(sentences)


def _choices(section: Mapping[str, Any]) -> str:
    """Return the methods that a section chooses, by modality."""
    words = []
    for modality, chosen in section.items():
        if isinstance(chosen, Mapping):
            named = [f"{key} {_short_path(value)}" for key, value in chosen.items() if isinstance(value, str) and value]
            if named:
                words.append(f"{'by default' if modality == 'default' else modality}: {', '.join(named[:6])}")
    return f" ({'; '.join(words)})" if words else ""


def _short_path(text: Any) -> str:
    text = str(text)
    return f"…/{PurePosixPath(text).name}" if text.startswith(("/", "~")) else text


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_places(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_places(entry) for entry in value]
    return _short_path(value) if isinstance(value, str) else value
