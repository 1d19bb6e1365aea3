"""What a classifier is worth: by the cross-validation in its card, and on subjects of the cohort that its training did not see.

Subjects that a model saw in training say nothing about it, however many of them it has right; they are counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohortex.report import charts, plots
from cohortex.report.records import Records, Row, number
from cohortex.tables import column_word

ENOUGH = 8
"""Subjects with a known class, and 2 of each class, from which on curves are drawn."""
MANY = 5000
"""Scans from which on intervals take fewer draws."""
RATES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
MEASURES = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity", "calibration": "calibration"}
TOLD = ("set", "unlike_training", "ruled_out")
"""Measures in words that have sentences of their own."""
GAPS, GROUPS = 12, 40
"""So many gaps, and groups, are listed."""


@dataclass
class Scans:
    """Classified scans of one model: probabilities, known classes (-1: not known), whether the training saw the subject or its image."""

    stage: str
    card: Mapping[str, Any]
    section: Mapping[str, Any]
    trained: frozenset[str]
    rows: list[Row] = field(default_factory=list)
    probability: list[list[float]] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    seen: list[bool] = field(default_factory=list)
    copies: set[str] = field(default_factory=set)


def told(records: Records) -> list[dict[str, Any]]:
    """Return what the report says of each classifier that gave probabilities.

    Returns
    -------
    list of dict
        ``stage``, ``name``; ``sets`` and ``rule_out`` (or None); ``apart``: a sentence on subjects seen in training (or ""); ``judged``: a
        list of judgements, each with ``title``, ``about`` (sentences), ``rates``, ``figures`` (title and SVG) and ``audit`` (or None);
        ``alarms``: sentences that go first.
    """
    return [_of_model(records, scans) for scans in _by_model(records)]


def alarms(judgements: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentences with which the report opens."""
    return [sentence for one in judgements for sentence in one["alarms"]]


# --- which model said it, of whom --------------------------------------------------------------------------------------


def _by_model(records: Records) -> list[Scans]:
    found: dict[tuple[str, str], Scans] = {}
    for stage in records.stages:
        cards: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for batch, numbers in records.numbers.get(stage, {}).items():
            models = [(model.get("sha256", ""), model.get("card") or {}) for model in (numbers.get("models") or {}).values()]
            cards[batch] = [(sha, card) for sha, card in models if card.get("task") == "classify" and len(card.get("classes") or []) > 1]
        for row in records.told.get(stage, []):
            if not records.counts_in(row.image):
                continue
            for sha256, card in cards.get(row.batch, []):
                names = [f"p_{column_word(str(name))}" for name in card["classes"]]
                told = [number(row.measures.get(name)) for name in names]
                if row.modality not in card.get("modality", []) or any(value is None for value in told):
                    continue
                section = records.numbers[stage][row.batch].get("section") or {}
                scans = found.get((stage, sha256))
                if scans is None:
                    scans = found[stage, sha256] = Scans(stage, card, section, _trained_on(card))
                scans.rows.append(row)
                scans.probability.append([float(value) for value in told if value is not None])
                scans.known.append(_known(records, row, card))
                scans.seen.append(row.subject in scans.trained)
                break
    for scans in found.values():
        _mark_copies(records, scans)
    return list(found.values())


def _mark_copies(records: Records, scans: Scans) -> None:
    """Count subjects as seen that have an image of a training subject: equal images have equal files through the whole chain."""
    sums = [records.last[row.image].sha256 if row.image in records.last else "" for row in scans.rows]
    trained = scans.trained
    theirs = {row.sha256 for row in records.last.values() if row.is_image and row.sha256 and row.subject in trained}
    scans.copies = {row.subject for row, sha256 in zip(scans.rows, sums, strict=True) if sha256 in theirs and row.subject not in trained}
    scans.seen = [seen or row.subject in scans.copies for row, seen in zip(scans.rows, scans.seen, strict=True)]


def _known(records: Records, row: Row, card: Mapping[str, Any]) -> int:
    target = (card.get("extra") or {}).get("target")
    truth = records.participants.get(row.subject, {}).get(target, "") if target else ""
    classes = [str(name) for name in card["classes"]]
    return classes.index(truth) if truth in classes else -1


def _trained_on(card: Mapping[str, Any]) -> frozenset[str]:
    """Return the subjects whose images the training, or the choice of what it kept, had before it."""
    copies = (card.get("recipe") or {}).get("copies") or {}
    subjects = [name for part in (card.get("subjects") or {}).values() for name in part]
    return frozenset([*subjects, *copies.get("left_out", []), *copies.get("both", [])])


def seen_in_training(records: Records) -> set[str]:
    """Return the classified images whose subjects the model's training saw."""
    return {row.image for scans in _by_model(records) for row, seen in zip(scans.rows, scans.seen, strict=True) if seen}


# --- one model ---------------------------------------------------------------------------------------------------------


def _of_model(records: Records, scans: Scans) -> dict[str, Any]:
    name, card = str(scans.card.get("name") or "classifier"), scans.card
    extra = card.get("extra") or {}
    own = extra.get("evaluation") or {}
    classes = [str(each) for each in card["classes"]]
    known, seen = np.array(scans.known), np.array(scans.seen)
    judged = []
    if own.get("roc"):
        about = [f"By its training: {own['on']}, {own['subjects']} subjects, each judged by models that had not learned from that one."]
        metrics = [metric for metric in card.get("metrics") or [] if metric.get("on") == own["on"]]
        named = {metric["name"].partition(" (")[0]: [metric.get(key) for key in ("value", "low", "high")] for metric in metrics}
        judged.append(_judgement("Cross-validation of the training", about, own, {key: named[key] for key in RATES if key in named}))
    fresh = (known >= 0) & ~seen
    apart = _apart(scans, known, seen)
    if fresh.any():
        judged.append(_on_cohort(records, scans, fresh, classes, own))
    return {
        "stage": scans.stage,
        "name": name,
        "sets": _sets(scans, own, fresh),
        "rule_out": _rule_out(scans, own, fresh, classes),
        "apart": apart,
        "judged": judged,
        "alarms": [*_leaks(name, card, sorted(scans.copies)), *(sentence for one in judged for sentence in one["alarms"](name))],
    }


def _apart(scans: Scans, known: np.ndarray, seen: np.ndarray) -> str:
    """Return a sentence on subjects that the training saw."""
    both = seen & (known >= 0)
    if not both.any():
        return ""
    copied = f" ({len(scans.copies)} by a copy of a training image)" if scans.copies else ""
    right = int((np.array(scans.probability)[both].argmax(axis=1) == known[both]).sum())
    subjects = len({row.subject for row, one in zip(scans.rows, both, strict=True) if one})
    return (
        f"{subjects} of the subjects with a known class were in the model's training or validation by their ids{copied}, so they are no "
        f"evidence of what it is worth and are not counted below ({right} of their {int(both.sum())} scans are right)."
    )


def _on_cohort(records: Records, scans: Scans, fresh: np.ndarray, classes: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a model on subjects of the cohort that its training did not see."""
    from cohortex.measures.attributes import attributes
    from cohortex.measures.classification import MEASURES as EVERY
    from cohortex.measures.classification import summary
    from cohortex.measures.evaluation import evaluation
    from cohortex.measures.intervals import proportion_interval

    rows = [row for row, one in zip(scans.rows, fresh, strict=True) if one]
    y, p = np.array(scans.known)[fresh], np.array(scans.probability)[fresh]
    p = p / p.sum(axis=1, keepdims=True)  # cells have six digits
    subjects = np.array([row.subject for row in rows])
    counts = Counter(int(k) for _, k in set(zip(subjects.tolist(), y.tolist(), strict=True)))
    title = "This cohort: subjects that the training did not see"
    about = [
        f"{len(set(subjects))} subjects with a known class: " + ", ".join(f"{counts[k]} {name}" for k, name in enumerate(classes)) + "."
    ]
    every = all(counts[k] >= 2 for k in range(len(classes))) and len(set(subjects)) >= ENOUGH
    rates = summary(
        y,
        p,
        subjects,
        resamples=1000 if len(y) < MANY else 200,
        only=[name for name in EVERY if name in RATES and (every or name in ("accuracy", "brier"))],
    )
    if not every:
        about.append(f"Fewer than {ENOUGH} subjects, or than 2 of some class: no curves.")
        return _judgement(title, about, {}, rates)
    columns, left_out = {}, {}
    asked = (scans.section.get("default") or {}).get("audit", "auto")
    if asked:
        target = (scans.card.get("extra") or {}).get("target", "")
        columns, left_out = attributes([_about(records, row, target) for row in rows], subjects, y, asked)
    of = (own.get("rule_out") or {}).get("class") or (own.get("reliability") or {}).get("of") or None
    found = evaluation(y, p, subjects, classes, of, columns)
    if left_out:
        found.setdefault("audit", {})["left_out"] = left_out
    predicted = p.argmax(axis=1)
    each = {
        f"{name} called so": proportion_interval(int((predicted[y == k] == k).sum()), int((y == k).sum())) for k, name in enumerate(classes)
    }
    return _judgement(title, about, found, {**rates, **each})


def _about(records: Records, row: Row, target: str) -> dict[str, str]:
    """Return what is known of a row's subject, its class left out."""
    entry = records.cohort.get(row.image.split("+")[0], {})
    cells = {name: entry.get(name, "") for name in ("site", "scanner")}
    cells |= records.participants.get(row.subject, {})
    return {name: cell for name, cell in cells.items() if name not in ("subject", target)}


def _judgement(title: str, about: list[str], found: Mapping[str, Any], rates: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    curves = found.get("roc") or []
    figures = []
    if curves:
        told = [(f"{one['class']}: AUC {_interval(one['auc'])}", one["points"]) for one in curves[: plots.COLOURS]]
        words = f"{title}: ROC"
        figures.append({"title": "ROC", "svg": plots.roc(told, words), "legend": [name for name, _ in told], "chance": "chance"})
    table = found.get("reliability") or {}
    if table.get("bins"):
        of = f"the probability of {table['of']}" if table["of"] else "the probability of the predicted class"
        words = f"{title}: reliability of {of}"
        legend = [f"{of}, mean distance from the diagonal {_three(table['error'])}; about as many scans in each dot, 95 % intervals"]
        axis = f"predicted probability of {table['of']}" if table["of"] else "probability of the predicted class"
        figures.append(
            {"title": "Reliability", "svg": plots.reliability(table["bins"], words, axis), "legend": legend, "chance": "as told"}
        )
    for one in (found.get("decisions") or [])[:4]:
        words = f"{title}: decision curve of {one['class']}"
        legend = [f"acting where the model says {one['class']}, 95 % band"]
        figure = {"title": f"Decision curve, {one['class']}", "svg": plots.decision(one, words), "legend": legend, "chance": "for no one"}
        figures.append({**figure, "everyone": "for everyone"})
    audit = _audit(found["audit"]) if found.get("audit") else None
    where = "in its training" if title.startswith("Cross") else "in this cohort"
    return {
        "title": title,
        "about": about,
        "rates": [(RATES.get(name, name), _interval(value)) for name, value in rates.items()],
        "figures": figures,
        "audit": audit,
        "alarms": lambda name: [
            f"{name} does not work alike for all groups {where}: {words}." for words in (audit or {}).get("alarms", [])
        ],
    }


# --- groups ------------------------------------------------------------------------------------------------------------


def _audit(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an audit as rows of tables, what differs most first."""
    gaps = sorted(found.get("gaps") or [], key=lambda gap: (not gap["alarm"], gap["corrected"] is None, gap["corrected"], gap["p"] or 0.0))
    tested = [gap for gap in gaps if gap["p"] is not None]
    alarms = [gap for gap in gaps if gap["alarm"]]
    by_group: dict[tuple[str, str], list[str]] = defaultdict(list)
    for gap in alarms:
        by_group[gap["column"], gap["group"]].append(f"{MEASURES[gap['measure']]} of {gap['class']} {gap['value']:+.2f}")
    columns = list(dict.fromkeys(group["column"] for group in found.get("groups") or []))
    first = {(gap["column"], gap["class"]) for gap in alarms}
    groups = sorted(found.get("groups") or [], key=lambda group: (group["column"], group["class"]) not in first)
    return {
        "columns": columns,
        "level": found.get("level"),
        "drawn": found.get("drawn"),
        "tested": len(tested),
        "alarms": [f"{column} {group} against the others, {', '.join(words)}" for (column, group), words in by_group.items()],
        "gaps": [{**gap, "measure": MEASURES[gap["measure"]]} for gap in [*alarms, *(g for g in tested if not g["alarm"])][:GAPS]],
        "groups": [{**group, **{key: _interval(group[key]) for key in MEASURES}} for group in groups[:GROUPS]],
        "more": max(0, len(groups) - GROUPS),
        "left_out": dict(found.get("left_out") or {}),
    }


# --- sets, ruling out, copies ------------------------------------------------------------------------------------------


def _sets(scans: Scans, own: Mapping[str, Any], fresh: np.ndarray) -> dict[str, Any] | None:
    """Return how many scans have a set of which size, and how often it held the known class."""
    told = own.get("sets")
    sizes = [number(row.measures.get("set_size")) for row in scans.rows]
    if not told or all(size is None for size in sizes):
        return None
    classes = [str(name).replace("|", "/") for name in scans.card["classes"]]
    single: Counter[str] = Counter(row.measures.get("set", "") for row, size in zip(scans.rows, sizes, strict=True) if size == 1)
    several = sum(size is not None and 1 < size < len(classes) for size in sizes)
    every = sum(size is not None and size >= len(classes) for size in sizes)
    unlike = sum(row.measures.get("unlike_training") == "true" for row in scans.rows)
    always = [name for name, limit in zip(classes, told["threshold"], strict=False) if limit is None]
    sentences = []
    checked = (told.get("checked") or {}).get("covered") or [None] * 3
    if checked[0] is not None:
        sentences.append(f"In the training's cross-validation {_percent(checked)} of the sets held the true class.")
        if checked[2] < told["level"]:
            sentences.append("That is fewer than promised: the models of the folds differ too much, so do not rely on these sets.")
    if always:
        sentences.append(f"Too few training subjects to promise anything of {', '.join(always)}: always in the set.")
    hits = [
        classes[k] in row.measures.get("set", "").split("|")
        for row, k, one in zip(scans.rows, scans.known, fresh, strict=True)
        if one and row.measures.get("set")
    ]
    if hits:
        from cohortex.measures.intervals import proportion_interval

        rate = proportion_interval(sum(hits), len(hits))
        sentences.append(
            f"Of {len(hits)} scans of subjects that the training did not see {_percent(rate)} have the known class in their set."
        )
    if unlike:
        sentences.append(f"{unlike} scans are as usual for no class; their set holds the most likely one: look at them.")
    parts = {"ok": sum(single.values()), "warned": several, "skipped": every}
    words = f"{parts['ok']} scans with one class, {several} with several, {every} with all"
    return {
        "bar": charts.stacked(parts, sum(parts.values()), words),
        "level": told["level"],
        "single": single.most_common(),
        "one": sum(single.values()),
        "several": several,
        "every": every,
        "total": sum(size is not None for size in sizes),
        "sentences": sentences,
    }


def _rule_out(scans: Scans, own: Mapping[str, Any], fresh: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return sentences on the class that is ruled out."""
    told = own.get("rule_out")
    if not told:
        return []
    name, chosen = told["class"], "" if told.get("chosen") == "named" else f" ({told.get('chosen')}, as none was named)"
    sentences = []
    if told["threshold"] is None:
        return [
            f"{name}{chosen} is ruled out for no one: to be {100 * told['sure']:g} % sure of a sensitivity of "
            f"{100 * told['sensitivity']:g} % takes {told['needed']} training subjects of that class, there were {told['cases']}."
        ]
    out = [row.measures.get("ruled_out") == "true" for row in scans.rows]
    counted = sum(bool(row.measures.get("ruled_out")) for row in scans.rows)
    subjects = len({row.subject for row, one in zip(scans.rows, out, strict=True) if one})
    sentences.append(
        f"{name}{chosen} is ruled out for {sum(out)} of {counted} scans ({subjects} subjects): those with a probability of it below "
        f"{told['threshold']:.3f}. Expected sensitivity {_percent(told['expected']['sensitivity'])}, of scans without it "
        f"{_percent(told['expected']['specificity'])} are ruled out, by {told['cases']} training subjects with it."
    )
    k = list(classes).index(name)
    sick = [not one for one, y, new in zip(out, scans.known, fresh, strict=True) if new and y == k]
    well = [one for one, y, new in zip(out, scans.known, fresh, strict=True) if new and y != k]
    if sick or well:
        from cohortex.measures.intervals import proportion_interval

        rates = [proportion_interval(sum(hits), len(hits)) for hits in (sick, well)]
        measured = [f"sensitivity {_percent(rates[0])} of {len(sick)}"] * bool(sick)
        measured += [f"{_percent(rates[1])} of {len(well)} without it ruled out"] * bool(well)
        sentences.append(f"Measured on scans of subjects that the training did not see: {', '.join(measured)}.")
    return sentences


def _leaks(name: str, card: Mapping[str, Any], again: Sequence[str]) -> list[str]:
    """Return sentences on images and subjects that were on both sides of the split of a training; `again`: subjects with an image of it."""
    copies = (card.get("recipe") or {}).get("copies") or {}
    found = []
    if again:
        found.append(
            f"The image of {len(again)} subjects that were not in the training of {name} is that of a training subject ({_some(again)}): "
            "they are counted as seen."
        )
    if copies.get("left_out"):
        some = _some(copies["left_out"])
        found.append(
            f"In the training of {name} {len(copies['left_out'])} training subjects had an image of a validation subject and were left out "
            f"({some}): whose images are they?"
        )
    if copies.get("both"):
        found.append(f"In the training of {name} {_some(copies['both'])} were training and validation subjects, and were not trained on.")
    if copies.get("together"):
        found.append(
            f"In the training of {name} {len(copies['together'])} groups of subjects have an image in common "
            f"({_some(copies['together'][0])}{' and others' if len(copies['together']) > 1 else ''}); they were kept in one fold."
        )
    if copies.get("two_labels"):
        found.append(f"In the training of {name} {copies['two_labels']} images have two labels: one of them is wrong.")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _three(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _interval(value: Sequence[float | None]) -> str:
    """Return a value with its interval, three digits."""
    middle, low, high = ((None if v is None or not np.isfinite(v) else float(v)) for v in value)
    if middle is None:
        return "–"
    return f"{middle:.3f}" if low is None or high is None else f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _percent(value: Sequence[float | None]) -> str:
    middle, low, high = value
    if middle is None:
        return "–"
    words = f"{100 * middle:.0f} %"
    return words if low is None or high is None else f"{words} (95 % interval {100 * low:.0f} to {100 * high:.0f})"
