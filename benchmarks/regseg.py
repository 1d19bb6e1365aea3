"""What the rows J01 to J08 state of the joint training of a registration and two segmentation networks, tried on simulated heads.

    python -m benchmarks.regseg [--proof J01,J04] [--seeds 3] [--others 1] [--folder FOLDER] [--save FILE]

M = 40 pairs of an MR (fixed) and a CT (moving) that lies elsewhere: bent smoothly by 5 mm in the mean, turned by 2 degrees and moved by
2 mm along each axis (standard deviations). Voxels of 6.5 mm, four tissues; N = 10 pairs have labels. Six other subjects say of which
round each network is kept, and another 16 are measured on. A seed has subjects of its own, first weights and draws; intervals (95 %,
bootstrap) are over all held-out subjects of all seeds, paired. The networks are small and learn for about five minutes of one core. J01
has `--seeds` seeds, the other rows have the first `--others` of them.

`alone` are the pre-trained networks after the same turns, with the same steps, learning rate and choice of the best round, but without what
links them: no labels in the registration and no agreement in the segmentations. What a folder has is not computed again, so a benchmark
that was stopped goes on; use a new one after a change. With ``--save`` the rows of a record that is there are kept beside the new ones.
Last line: FIGURE; of an interval the lower end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proofs import Found, rows_of, try_all
from benchmarks.record import Run, Table, add_save
from benchmarks.regseg_runs import Setup, column, result
from cohortex.measures.intervals import paired_interval
from cohortex.threads import set_threads

JOINT = Setup()
ALONE = replace(JOINT, linked=False)
SAME = ("T1w", "T1w")
MEASURES = {"ct": "moving", "mr": "fixed", "registration": "registration"}
"""Figures by the name of what was measured: the mean Dice of both segmentations and of displaced labels."""


@dataclass
class Trials:
    """The runs: computed when they are asked for, or taken from the folder.

    Attributes
    ----------
    seeds, others : int
        Of row J01, and of the other rows.
    """

    folder: Path
    seeds: int
    others: int
    shown: dict[str, list[Any]] = field(default_factory=dict)

    def rows(self, setup: Setup, when: str = "after", seeds: int | None = None) -> list[dict[str, float]]:
        """Return the measures of the held-out subjects of all seeds."""
        return [row for seed in range(seeds or self.others) for row in result(setup, seed, self.folder)[when]]

    def tried(self, row: str, proof: Callable[[Trials], Found]) -> Found:
        """Return what came of a row, with how many seeds it had."""
        found = proof(self)
        return replace(found, figures=[*found.figures, f"{self.seeds if row == 'J01' else self.others} seeds"])

    def table(self) -> Table:
        """Return what was measured of all networks so far."""
        made = Table({"networks": "", "subjects": "", **dict.fromkeys(COLUMNS, ".3f")})
        made.rows += self.shown.values()
        return made

    def show(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep a line of the table of networks."""
        means = [float(np.nanmean(column(rows, measure))) for measure in COLUMNS.values()]
        self.shown[name] = [name, str(len(rows)), *means]


COLUMNS = {
    "CT Dice": "moving",
    "MR Dice": "fixed",
    "registration Dice": "registration",
    "agreement": "agreement",
    "TRE mm": "tre_mm",
    "folding %": "folding_percent",
    "CT HD95 mm": "hd95_moving_mm",
    "MR HD95 mm": "hd95_fixed_mm",
}


def score(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the mean of the three Dice of every subject."""
    return np.mean([column(rows, name) for name in MEASURES.values()], axis=0)


def more(a: np.ndarray, b: np.ndarray) -> tuple[str, tuple[float, float, float]]:
    """Return how much more a is than b, in words and as mean and interval."""
    mean, low, high = paired_interval(a, b)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", (mean, low, high)


def by_measure(a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """Return the three differences of two runs."""
    both = {name: more(column(a, m), column(b, m)) for name, m in MEASURES.items()}
    return ", ".join(f"{LABEL[name]} {words}" for name, (words, _) in both.items()), {name: numbers for name, (_, numbers) in both.items()}


LABEL = {"ct": "CT", "mr": "MR", "registration": "registration"}


def joint(trials: Trials) -> Found:
    """Row J01: all three better than the pre-trained ones, which is also asked of them against the same steps alone."""
    after, before = (trials.rows(JOINT, when, trials.seeds) for when in ("after", "before"))
    alone = trials.rows(ALONE, seeds=trials.seeds)
    trials.show("pre-trained", before)
    trials.show("alone", alone)
    trials.show("joint", after)
    words, gains = by_measure(after, before)
    against, over = by_measure(after, alone)
    figures = {f"joint_gain_{name}": low for name, (_, low, _) in gains.items()}
    figures |= {f"joint_over_alone_{name}": low for name, (_, low, _) in over.items()}
    holds = {f"{LABEL[name]} gains": low > 0 for name, (_, low, _) in gains.items()}
    # Subjects of one seed share their networks, so their interval says nothing of another training.
    holds["three seeds"] = trials.seeds >= 3
    return Found([f"over the pre-trained ones: {words}", f"over the same steps alone: {against}"], holds, figures)


def similarities(trials: Trials) -> Found:
    """Row J02: registration Dice with E_msMIND above mutual information and above one scale."""
    ours = trials.rows(JOINT)
    words, holds = [], {}
    for name in ("mutual information", "MIND-SSC, one scale", "NCC"):
        other = trials.rows(replace(JOINT, similarity=name))
        trials.show(f"joint, {name}", other)
        before, lone = (trials.rows(s, "before") for s in (JOINT, replace(JOINT, similarity=name)))
        told, (_, low, _) = more(column(ours, "registration"), column(other, "registration"))
        alone, _ = more(column(before, "registration"), column(lone, "registration"))
        words.append(f"registration over {name}: {told}, before the turns {alone}")
        if name != "NCC":
            holds[f"above {name}"] = low > 0
    return Found(words, holds)


def consistency(trials: Trials) -> Found:
    """Row J04: without it Dice is lower on pairs without labels; the two segmentations agree more than before."""
    ours, without = trials.rows(JOINT), trials.rows(replace(JOINT, consistency=0.0))
    trials.show("joint, no consistency", without)
    told, (_, low, _) = more(score(ours), score(without))
    words, _ = by_measure(ours, without)
    agree, (_, least, _) = more(column(ours, "agreement"), column(trials.rows(JOINT, "before"), "agreement"))
    kept = min(column(ours, "foreground_fixed").min(), column(ours, "foreground_moving").min())
    return Found(
        [
            f"over none: {words}; mean {told}",
            f"agreement {agree} more than before the turns",
            f"least foreground {100 * kept:.0f} % of the truth's",
        ],
        {"removing it costs": low > 0, "the networks agree more": least > 0, "no mask was emptied": kept > 0.5},
    )


def pretraining(trials: Trials) -> Found:
    """Row J05: from random networks, with as many steps, the turns end lower."""
    ours, without = trials.rows(JOINT), trials.rows(replace(JOINT, pretrain=False))
    trials.show("joint, no pre-training", without)
    told, (_, low, _) = more(score(ours), score(without))
    words, _ = by_measure(ours, without)
    return Found([f"with over without: {words}; mean {told}"], {"without it ends lower": low > 0})


def labelled(trials: Trials) -> Found:
    """Row J06: the mean Dice does not fall with N, and is highest for N = M."""
    counts, words, fine = (5, 10, 20, 40), [], True
    scores = []
    for n in counts:
        rows = trials.rows(replace(JOINT, labelled=n))
        trials.show(f"joint, N = {n}" if n != JOINT.labelled else "joint, N = 10 of these seeds", rows)
        scores.append(score(rows))
        words.append(f"N = {n}: {scores[-1].mean():.3f}")
    for few, many in pairwise(scores):
        told, (_, _, high) = more(many, few)
        words.append(f"next {told}")
        fine &= high > 0
    return Found(words, {"does not fall": fine, "N = M is the highest": int(np.argmax([s.mean() for s in scores])) == len(counts) - 1})


def swaps(trials: Trials) -> Found:
    """Row J07: every pair of networks, named in the settings only, gains over its own pre-training."""
    words, holds = [], {}
    for register in ("diffeomorphic", "displacement"):
        for segment in ("unet3d", "attention_unet"):
            setup = replace(JOINT, register=register, segment=segment)
            after, before = trials.rows(setup), trials.rows(setup, "before")
            trials.show(f"joint, {register} + {segment}", after)
            told, (_, low, _) = more(score(after), score(before))
            apart, _ = by_measure(after, before)
            words.append(f"{register} + {segment}: {apart}; mean {told}")
            holds[f"{register} + {segment} gains"] = low > 0
    return Found(words, holds)


def baselines(trials: Trials) -> Found:
    """Row J08: DeepAtlas (NCC, one segmentation network) behind on CT-MR and equal on MR-MR; the multi-task network beside it."""
    ours = trials.rows(JOINT)
    atlas = trials.rows(replace(JOINT, similarity="NCC", shared=True))
    same, own = (trials.rows(s) for s in (replace(JOINT, kind=SAME), replace(JOINT, kind=SAME, similarity="NCC, one modality")))
    multi = trials.rows(replace(JOINT, multitask=True))
    for name, rows in {"DeepAtlas": atlas, "joint, MR-MR": same, "DeepAtlas, MR-MR": own, "multi-task": multi}.items():
        trials.show(name, rows)
    told, (_, low, _) = more(score(ours), score(atlas))
    equal, (mean, down, up) = more(score(own), score(same))
    words = [f"joint over DeepAtlas on CT-MR: {by_measure(ours, atlas)[0]}; mean {told}"]
    words.append(f"DeepAtlas over joint on MR-MR: {by_measure(own, same)[0]}; mean {equal}")
    words.append(f"joint over multi-task on CT-MR: {by_measure(ours, multi)[0]}; mean {more(score(ours), score(multi))[0]}")
    # A hundredth of Dice either way is no difference.
    return Found(words, {"DeepAtlas behind on CT-MR": low > 0, "equal on MR-MR": abs(mean) < 0.01 or down <= 0 <= up})


PROOFS: dict[str, tuple[str, Callable[[Trials], Found]]] = {
    "J01": ("registration and both segmentations better than their own pre-trained networks", joint),
    "J02": ("registration Dice with E_msMIND above mutual information and above one scale", similarities),
    "J04": ("removing E_consistency lowers Dice on unlabelled pairs; the networks agree more than before", consistency),
    "J05": ("from random networks the turns end lower", pretraining),
    "J06": ("Dice does not fall with N and is highest for N = M", labelled),
    "J07": ("2 x 2 networks by settings only, each gains over its own pre-training", swaps),
    "J08": ("DeepAtlas with NCC behind on CT-MR, equal on MR-MR", baselines),
}


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proof", default="all", help="rows, with commas between them")
    parser.add_argument("--seeds", type=int, default=3, help="of row J01")
    parser.add_argument("--others", type=int, default=1, help="seeds of the other rows")
    parser.add_argument("--folder", type=Path, help="where runs are kept, so that a benchmark that was stopped goes on")
    add_save(parser)
    options = parser.parse_args()
    rows = rows_of(options.proof, PROOFS)
    set_threads(1)
    run = Run("regseg", ["numpy", "torch"])
    with tempfile.TemporaryDirectory() as temporary:
        trials = Trials(options.folder or Path(temporary), options.seeds, options.others)
        trials.folder.mkdir(parents=True, exist_ok=True)
        tries = {row: (words, partial(trials.tried, row, proof)) for row, (words, proof) in PROOFS.items()}
        try_all(run, tries, rows, options.save, lambda: {"networks": trials.table()})


if __name__ == "__main__":
    main()
