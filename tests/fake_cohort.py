"""Writes the records of a cohort that never ran, so that the report and the verdict can be tested without a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.records import TIMING_COLUMNS, write_manifest
from cohortex.report.previews import checkerboard, orthogonal_views, slices_of
from cohortex.tables import write_table
from cohortex.training.shown import shown
from cohortex.volume import Volume

STAGES = ["acquire", "preprocess", "denoise", "superresolve", "regseg", "classify", "export"]
COHORT = "subject session modality path run acq body_part role site scanner pair split image batch fingerprint".split(" ")  # noqa: SIM905
BATCH, SLICES = 4, 5
SCRIPT = "<script>document.title='broken into'</script>"

CONFIG = {
    "input": "demo",
    "output": "results",
    "work": "work",
    "batch_size": BATCH,
    "seed": 2026,
    "device": "auto",
    "stages": STAGES,
    "quarantine": {"tolerate": 0.2},
    # pages of subjects take longest: tests of theirs ask for them
    "report": {"pictures": 60, "odd_z": 3.5, "subjects": "none"},
    "denoise": {"default": {"method": "dct"}, "CT": {"method": "half_grid_unet", "weights": "zoo/denoise/low_dose"}},
    "superresolve": {"default": {"weights": "zoo/superresolve/srcnn3d"}},
}

PAGED = CONFIG | {"report": {"pictures": 60, "odd_z": 3.5, "subjects": "shown"}}
"""The same with pages of subjects."""

CARD = {
    "name": "redcnn-demo",
    "task": "denoise",
    "network": "redcnn",
    "modality": ["CT"],
    "body_part": ["head"],
    "dimensions": [3],
    "spacing_mm": {"min": 0.4, "max": 3.0},
    "data": "Simulated heads made from the MNI152 average, 24 training subjects",
    "simulated": True,
    "recipe": {
        "steps_done": 2000,
        "loss": [0.04, 0.012, 0.006, 0.004, 0.0031, 0.0026, 0.0022, 0.002, 0.0019, 0.0018],
        "validation": [[0, 0.05], [500, 0.0046], [1000, 0.003], [1500, 0.0024], [2000, 0.0021]],
        "objective": {"name": "squared_error", "about": "mean squared error"},
        "stopped": "steps",
    },
    "seed": 7,
    "metrics": [
        {
            "name": "PSNR gain (dB)",
            "value": 4.21,
            "low": 3.9,
            "high": 4.6,
            "n": 24,
            "against": "the noisy image",
            "on": "held-out simulated subjects",
        },
        {"name": "SSIM", "value": 0.942, "low": None, "high": None, "n": 24},
    ],
    "intended_use": "Low-dose head CT of the demo cohort.",
    "limits": "Trained on simulated images only; not for clinical use.",
    "license": "Apache-2.0",
    "subjects": {"train": ["t001", "t002"]},
    "sha256": "ab" * 32,
}


def anatomy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the MNI152 T1 at 2 mm, its labels (CSF, GM, WM, bone, other) and its affine."""
    import nibabel
    import nilearn.datasets
    from scipy.ndimage import binary_dilation

    folder = Path(nilearn.datasets.__file__).parent / "data"
    t1, grey, white = (
        np.asarray(nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz").dataobj, np.float32)
        for name in ("t1", "gm", "wm")
    )
    t1, grey, white = (array[::2, ::2, ::2] / array.max() for array in (t1, grey, white))
    brain = t1 > 0.05
    labels = np.where(brain, 1, 0)
    labels[(grey > white) & (grey > 0.4)] = 2
    labels[(white >= grey) & (white > 0.4)] = 3
    skull = binary_dilation(brain, iterations=4)
    labels[skull & ~binary_dilation(brain, iterations=1)] = 4
    labels[binary_dilation(skull, iterations=2) & ~skull] = 5
    return t1, labels.astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])


def write_fake_cohort(
    work: Path,
    subjects: int = 8,
    stages: Sequence[str] = STAGES,
    pictures: bool = True,
    site: str = "demo-simulator",
    systemic: bool = False,
    batch_size: int = BATCH,
    lost: int = 0,
) -> Path:
    """Write `<work>/cohort` and `<work>/records` of a cohort with a T1w and a CT each.

    The second subject's CT is quarantined by preprocess, the third's T1w crashed in denoise, CT is skipped by
    superresolve, the sixth subject's T1w is odd; with `systemic`, most of the last batch is quarantined by preprocess;
    the CT of so many subjects as `lost` says, spread over the cohort, is quarantined by preprocess, too.
    """
    generator = np.random.default_rng(5)
    names = [f"{index + 1:03d}" for index in range(subjects)]
    batches = {name: f"b{index // batch_size:04d}" for index, name in enumerate(names)}
    rows = []
    for name in names:
        for modality in ("T1w", "CT"):
            row = dict.fromkeys(COHORT, "")
            row |= {"subject": name, "modality": modality, "path": f"{name}/{modality}", "body_part": "head", "role": "image", "site": site}
            row |= {"scanner": f"s{int(name) % 2 + 1}", "split": "test", "image": f"{name}_{modality}", "batch": batches[name]}
            rows.append(row)
    write_table(work / "cohort" / "cohort.tsv", COHORT, rows)
    people = [{"subject": name, "diagnosis": ("control", "tumour", "lesions")[int(name) % 3], "age": 30 + int(name)} for name in names]
    write_table(work / "cohort" / "participants.tsv", ("subject", "diagnosis", "age"), people)
    shapes = Pictures() if pictures else None
    alive = {row["image"]: row for row in rows}
    gone = {names[int(at)] for at in np.linspace(1, subjects - 1, lost)}
    by_batch: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_batch.setdefault(row["batch"], []).append(row)
    for stage in stages:
        for batch in sorted(by_batch):
            members = [row for row in by_batch[batch] if row["image"] in alive]
            manifest, previews = [], {}
            for row in members:
                told = _tell(
                    stage,
                    row,
                    generator,
                    systemic=(systemic and batch == max(batches.values())) or (row["modality"] == "CT" and row["subject"] in gone),
                )
                if told["status"] in ("quarantined", "crashed", "failed"):
                    alive.pop(row["image"])
                    manifest.append(told)
                    continue
                manifest.append(told)
                if shapes:
                    previews |= shapes.of(stage, row["image"], row["modality"], skipped=told["status"] == "skipped")
                if stage == "regseg" or (stage in ("classify", "export")):
                    manifest.append(
                        {
                            **told,
                            "image": f"{row['image']}+seg",
                            "kind": "labels",
                            "role": "labels",
                            "status": "ok",
                            "code": "",
                            "reason": "",
                        }
                    )
                    manifest[-1] = {key: value for key, value in manifest[-1].items() if not key.startswith(("tre", "p_", "dice"))}
            _write(work / "records" / stage / batch, stage, manifest, previews, len(members), generator)
    return work


def _tell(stage: str, row: dict[str, str], generator: np.random.Generator, systemic: bool) -> dict[str, object]:
    name, modality = row["image"], row["modality"]
    told: dict[str, object] = {key: row[key] for key in ("subject", "session", "image", "modality", "body_part")}
    told |= {"kind": "image", "role": "image", "status": "ok", "path": f"{name}.ozx", "key": "ef" * 32}
    told["sha256"] = hashlib.sha256(name.encode()).hexdigest()
    told |= {"shape": "99x117x95", "spacing_mm": "2x2x2"}
    if stage == "preprocess" and (name == "002_CT" or (systemic and (modality == "CT" or int(row["subject"]) % BATCH == 1))):
        reason = f"{row['subject']}/{modality}: slice 17 of 42 is missing (the gap is 9 mm); send the series again. {SCRIPT}"
        return {**told, "status": "quarantined", "code": "missing-slices", "reason": reason, "path": ""}
    if stage == "denoise" and name == "003_T1w":
        return {
            **told,
            "status": "crashed",
            "code": "process-died",
            "reason": "the process died 2 times on this item; see the log",
            "path": "",
        }
    if stage == "superresolve" and modality == "CT":
        return {**told, "status": "skipped", "code": "isotropic", "reason": "its voxels are already isotropic, so there is nothing to do"}
    if stage == "acquire":
        told |= {"noise_sd": generator.normal(20, 2), "slices": 95}
        if name == "004_T1w":
            told |= {"status": "warned", "code": "no-units", "reason": "the header names no unit of length; mm was assumed"}
    if stage == "preprocess":
        told |= {"bias_range": generator.normal(1.2, 0.05)}
    if stage == "denoise":
        sigma = generator.normal(20, 2) * (3 if name == "006_T1w" else 1)
        told |= {"sigma_before": sigma, "sigma_after": sigma * generator.normal(0.3, 0.02), "psnr_db": generator.normal(31, 1)}
    if stage == "regseg":
        before = generator.normal(6, 1)
        told |= {"tre_before_mm": before, "tre_after_mm": before * 0.2, "dice": generator.normal(0.85, 0.02), "folding_percent": 0.0}
    if stage == "classify" and modality == "T1w":
        share = generator.dirichlet([1.5, 1, 1])
        told |= {f"p_{label}": value for label, value in zip(("control", "lesions", "tumour"), share, strict=True)}
        told |= {"predicted": ("control", "lesions", "tumour")[int(np.argmax(share))]}
    return told


def _write(
    folder: Path, stage: str, manifest: list[dict], previews: dict[str, np.ndarray], items: int, generator: np.random.Generator
) -> None:
    folder.mkdir(parents=True)
    write_manifest(folder / "manifest.tsv", manifest)
    timing = [
        {
            "item": row["image"],
            "seconds": abs(generator.normal(4, 1)),
            "peak_mb": 900 + generator.normal(0, 50),
            "host": "node1",
            "pid": 1,
            "device": "cpu",
            "threads": 2,
            "resumed": 0,
        }
        for row in manifest
        if "+" not in row["image"]
    ]
    write_table(folder / "timing.tsv", TIMING_COLUMNS, timing)
    if previews:
        np.savez_compressed(folder / "previews.npz", allow_pickle=False, **previews)
    lost = sum(row["status"] in ("quarantined", "crashed", "failed") for row in manifest)
    learned = stage in ("denoise", "superresolve")
    numbers = {
        "stage": stage,
        "version": 1,
        "section": CONFIG.get(stage, {"default": {}}),
        "models": {"zoo/denoise/low_dose": {"sha256": CARD["sha256"], "card": CARD, "shown": training_shown()}} if learned else {},
        "software": {"cohortex": "0.1.0", "python": "3.11.9", "numpy": "2.4.6", "torch": "2.13.0"},
        "device": "cpu",
        "counts": {},
        "items": items,
        "systemic": items >= 5 and lost * 2 > items,
    }
    (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")


def training_shown() -> dict[str, Any]:
    """Return what a training leaves for the report."""
    generator = np.random.default_rng(3)
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40), indexing="ij")
    truth = np.where(x**2 + y**2 < 0.7, 0.6 + 0.3 * np.cos(5 * x), 0.0)
    example = {
        "with synthetic noise": truth + generator.normal(0, 0.2, truth.shape),
        "network": truth + generator.normal(0, 0.05, truth.shape),
        "target": truth,
    }
    return shown(CARD["recipe"], [example, example], "mean squared error")


class Pictures:
    """Previews of one head in the states in which the stages leave it."""

    def __init__(self) -> None:
        self.t1, self.labels, self.affine = anatomy()
        self.generator = np.random.default_rng(1)
        self.made: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}
        table = np.array([0, 10, 38, 28, 900, 30, 60], np.float32)
        self.ct = np.where(self.labels > 0, table[self.labels], -1000).astype(np.float32)

    def of(self, stage: str, name: str, modality: str, skipped: bool) -> dict[str, np.ndarray]:
        """Return what a stage would leave; every third subject looks alike, which saves time."""
        known = (stage, modality, int(name[:3]) % 3)
        if known not in self.made:
            self.made[known] = self.make(stage, modality)
        if skipped:
            return {}
        return {f"{name}{picture}": array for picture, array in self.made[known].items()}

    def make(self, stage: str, modality: str) -> dict[str, np.ndarray]:
        """Return pictures by what follows the id in their names."""
        if stage in ("classify", "export"):
            return {}
        clean = self.t1 + 0.6 * (self.labels == 5) if modality == "T1w" else self.ct
        noise = (0.08 if modality == "T1w" else 25.0) * {"acquire": 1.0, "preprocess": 1.0, "denoise": 0.25}.get(stage, 0.1)
        noisy = clean + self.generator.normal(0, noise, clean.shape).astype(np.float32)
        volume = Volume(noisy, self.affine, modality, body_part="head")
        if stage == "superresolve":
            volume = Volume(noisy[:, :, ::2], np.diag([2.0, 2.0, 4.0, 1.0]), modality, body_part="head")
        views = {f"|{view}": picture for view, picture in (orthogonal_views(volume) | slices_of(volume, SLICES)).items()}
        if stage != "regseg":
            return views
        labels = Volume(self.labels, self.affine, modality, kind="labels", body_part="head")
        seg = {f"+seg|{view}": picture for view, picture in (orthogonal_views(labels) | slices_of(labels, SLICES)).items()}
        fixed = views["|axial"]
        boards = {
            "|checkerboard_axial_before": checkerboard(fixed, np.roll(255 - fixed, 9, axis=1)),
            "|checkerboard_axial_after": checkerboard(fixed, 255 - fixed),
        }
        return {**({} if modality == "CT" else views), **seg, **boards}
