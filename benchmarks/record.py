"""What the benchmarks share: CPU time, child processes, tables, and the record from which pages of docs/ are made.

A record is a JSON file: command, date, commit, machine, versions, tables, figures and how long it took. Nothing heavy is imported here,
since children whose memory is limited or measured import it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

TARGETS: dict[str, dict[str, tuple[str, float] | None]] = {
    "filters": {
        "median3_vs_scipy": (">=", 100),
        "median5_vs_best": (">=", 10),
        "tv_vs_skimage": (">=", 12),
        "diffusion_vs_sitk": (">=", 50),
        "wiener_vs_scipy": (">=", 30),
        "gaussian_vs_scipy": (">=", 2.5),
        "wavelet_vs_skimage": (">=", 3),
        "transform_gap_db": ("<=", 1.3),
        "transform_vs_bm4d": (">=", 15),
    },
    "files": {
        "write_int16_vs_nibabel": (">=", 6),
        "write_float32_vs_nibabel": (">=", 14),
        "step_vs_nibabel": (">=", 25),
        "block_vs_nifti": (">=", 15),
    },
    "inference": {
        "cnn_vs_monai": (">=", 5),
        "labels_equal": (">=", 0.995),
        "export100_time": (">=", 10),
        "export100_memory": (">=", 10),
    },
    "denoise": {
        "mr_gain_3": (">=", 0.5),
        "mr_gain_5": (">=", 0.5),
        "mr_gain_10": (">=", 0.5),
        "mr_over_transform": (">=", 0),
        "mr_vs_bm4d": (">=", 200),
        "mr_vs_bm4d_float32": (">=", 60),
    },
    "superresolve": {
        f"x{factor}_{name}": asked
        for factor, least in ((2, 1.5), (4, 1.5), (6, 1.0))
        for name, asked in {
            "gain": (">=", least),
            **dict.fromkeys(("low", "high", "real", "simulated", "srcnn3d")),
            "over_srcnn3d": (">=", 0.0),
        }.items()
    },
    "superresolve_proofs": {"proofs_holding": None, "proofs_total": None},
    "selfsupervised": {
        "selfsupervised_gap": ("<=", 0.5),
        "n09_gap": ("<=", 0.5),
        "n09_over_tv": (">=", 1),
        "n09_over_transform": (">=", 1),
        "n10_over_filters": (">=", 0),
        "n10_ct_gap": None,
        "n10_ct_over_filters": (">=", 0),
    },
    "denoise_proofs": {"proofs_holding": None, "proofs_total": None},
    "segment_proofs": {"proofs_holding": None, "proofs_total": None},
    "radiomics": {
        **dict.fromkeys(("features_logistic", "features_svm", "features_forest", "noise_leaking", "noise_honest")),
        **dict.fromkeys(("fusion_features", "fusion_network", "fusion_fused", "fusion_p_features", "fusion_p_network")),
        **dict.fromkeys(("manifold_pca", "manifold_isomap", "manifold_laplacian", "manifold_neighbourhood", "manifold_p")),
        **dict.fromkeys(("hybrid", "hybrid_best_single", "hybrid_p", "proofs_holding", "proofs_total")),
    },
    "recognize_proofs": {"proofs_holding": None, "proofs_total": None},
    "classify_proofs": {"proofs_holding": None, "proofs_total": None},
    "recognize": {
        "brain3_map50": None,
        "low": None,
        "high": None,
        "brain3_resnet18_map50": None,
        "brain3_gain": None,
        "brain3_gain_low": None,
        "brain3_gain_high": None,
    },
    "register_proofs": {"proofs_holding": None, "proofs_total": None},
    "denoise_ct": {
        "ct_gain": (">=", 1),
        "ct_gain_heads": None,
        "ct_gain_real": None,
        "ct_over_transform": (">=", 0),
        "ct_gain_whole_dose": (">=", 0),
    },
    "regseg": {
        "joint_gain_ct": (">=", 0),
        "joint_gain_mr": (">=", 0),
        "joint_gain_registration": (">=", 0),
        "joint_over_alone_ct": None,
        "joint_over_alone_mr": None,
        "joint_over_alone_registration": None,
        "proofs_holding": None,
        "proofs_total": None,
    },
    "deface": {
        "simulated_brain_removed_percent": ("<=", 0.1),
        "real_brain_removed_percent": ("<=", 1.0),
        "simulated_face_left_percent": ("<=", 10),
        "real_face_left_percent": ("<=", 25),
        "head_seconds": None,
    },
    "real_heads": {
        "real_gm_dice": (">=", 0.80),
        "real_wm_dice": (">=", 0.85),
        "real_ventricle_dice": (">=", 0.80),
        **dict.fromkeys(("consistency_t1post", "consistency_t2", "consistency_flair", "simulated_t1w_dice", "simulated_ct_dice")),
        **dict.fromkeys(("pairs_affine", "pairs_network", "pairs_gauss_newton", "pairs_both")),
    },
    "blocks": {"outofcore_time": ("<=", 1.2), "outofcore_equal": (">=", 1)},
    "scale": {
        "parse_s": ("<=", 1),
        "parse_head_s": ("<=", 1),
        "dry10k_cpu_s": ("<=", 12),
        "dry10k_mb": ("<=", 300),
        "dry50k_cpu_s": ("<=", 12),
        "dry50k_mb": None,
        "dry50k20_cpu_s": ("<=", 45),
        "dry50k20_mb": None,
        "files_per_subject": ("<=", 8),
        "files_of_batches_per_subject": None,
        "jobs_per_subject": ("<=", 0.5),
        "flight_batches": None,
        "flight_mb": None,
        "flight_files": None,
        "flight_estimate_batches": None,
        "flight_estimate_mb": None,
        "flight_estimate_files": None,
        "report10k_cpu_s": None,
        "report10k_mb": None,
        "verdict10k_cpu_s": None,
        "verdict10k_mb": None,
        "page10k_file_mb": None,
        "manifest10k_file_mb": None,
        "report50k_cpu_s": None,
        "report50k_mb": None,
        "verdict50k_cpu_s": None,
        "verdict50k_mb": None,
        "page50k_file_mb": None,
        "manifest50k_file_mb": None,
    },
    "overhead": {
        "overhead_fraction": ("<=", 0.05),
        "wall_fraction": None,
        "extra_cpu_s": None,
        "workflow_wall_s": None,
        "loop_wall_s": None,
        "slurm_wall_fraction": None,
        "slurm_wall_s": None,
        "slurm_between_s": None,
        "slurm_head_cpu_s": None,
    },
    "faults": {
        "kills": None,
        "mismatches": ("<=", 0),
        "images_lost_per_kill": ("<=", 3),
        "mean_lost": None,
        "lost_by_heads": ("<=", 0),
        "begun_again_unkilled": None,
    },
    "classify": {
        "pneumonia_accuracy": (">=", 0.975),
        "pneumonia_auc": (">=", 0.996),
        **dict.fromkeys(("pneumonia_svm_accuracy", "pneumonia_svm_auc")),
        **dict.fromkeys(("pneumonia_gain", "pneumonia_gain_low", "pneumonia_gain_high")),
        **dict.fromkeys(("pneumonia_auc_gain", "pneumonia_auc_gain_low", "pneumonia_auc_gain_high")),
        **dict.fromkeys(("brain3_accuracy", "brain3_resnet18_accuracy", "brain3_gain", "brain3_gain_low", "brain3_gain_high")),
        "demo_auc": (">=", 0.95),
        **dict.fromkeys(("demo_auc_low", "demo_auc_high", "demo_accuracy", "demo_brier")),
        **dict.fromkeys(("demo_calibration_error", "demo_calibration_error_chance", "demo_slope", "demo_slope_low", "demo_slope_high")),
        "conformal_gap": ("<=", 0.01),
    },
    "segment": {"networks_built": (">=", 10), "best_dice": None, "baseline_dice": None},
    "classify_evaluation": {
        "conformal_gap": ("<=", 0.01),
        "conformal_gap_rarest": ("<=", 0.02),
        "rule_out_kept_simulated": (">=", 0.85),
        "rule_out_kept_xrays": None,
        "image_split_inflates": None,
        "image_split_inflates_low": (">=", 0),
        "image_split_inflates_high": None,
        "subject_split_inflates": None,
        "subject_split_inflates_low": ("<=", 0),
        "subject_split_inflates_high": None,
        "image_split_inflates_real": None,
        "subject_split_inflates_real": None,
        "splits_caught": (">=", 1),
        "rare_recall_gain": None,
        "rare_recall_gain_low": (">=", 0),
        "rare_recall_gain_high": None,
        "rare_recall_gain_logistic": None,
        "rare_recall_gain_logistic_low": None,
        "rare_recall_gain_logistic_high": None,
        "audit_false_alarms": ("<=", 0.08),
        "audit_power": (">=", 0.8),
    },
    "motion": {
        "auc_curriculum": (">=", 0.9),
        "auc_random": None,
        "gain": (">=", 0),
        "gain_low": None,
        "gain_high": None,
        "auc_real": None,
        "cpu_s": None,
    },
    "quality": {
        "quality_spearman": (">=", 0.8),
        "quality_mae": ("<=", 0.07),
        "quality_spearman_again": None,
        "quality_mae_again": None,
    },
    "quality_any": {
        "quality_spearman": (">=", 0.8),
        "quality_mae": ("<=", 0.07),
        "quality_spearman_again": None,
        "quality_mae_again": None,
    },
    "vessels": {"vessel_dice": None, "observer_dice": None, "difference_low": (">=", 0), "difference_high": None},
    "registration": {
        "mono_cpu_vs_greedy": ("<=", 0.15),
        "mono_tre_vs_greedy": ("<=", 0.75),
        "mono_dice_gain": (">=", 1e-9),
        "bias_cpu_vs_elastix": ("<=", 0.2),
        "bias_tre_vs_elastix": ("<=", 0.5),
        "multi_cpu_vs_elastix": ("<=", 0.2),
        "multi_tre_vs_elastix": ("<=", 1.0),
        "multi_cpu_vs_convexadam": ("<=", 0.2),
        "multi_tre_vs_convexadam": ("<=", 0.65),
        "local_cpu_vs_convexadam": None,
        "local_tre_vs_convexadam": ("<=", 0.85),
        "mono_tre_vs_network": None,
        "multi_tre_vs_network": None,
        "min_jacobian": (">=", 0.05),
        "consistency_mm": None,
        "choice_worse": ("<=", 0.05),
        "prostate_dice_gain": (">=", 0),
        "rigid_error_mm": ("<=", 0.5),
    },
    "report": {
        "index_mb": ("<=", 15),
        "open_s": ("<=", 2),
        "filter_s": ("<=", 2),
        "make_s": ("<=", 120),
        "make_mb": ("<=", 1000),
        "external_requests": ("<=", 0),
        "console_errors": ("<=", 0),
        "axe_serious": ("<=", 0),
        "validator_errors": ("<=", 0),
    },
    "robustness": {
        "cases_right": None,
        "cases_total": None,
        **{f"{part}_{of}{kind}": None for part in ("battery", "tests") for of in ("", "of_") for kind in "NDKZTMRGSPC"},
        "odd_as_listed": None,
        "odd_files": None,
        "fuzz_files": (">=", 1_600_000),
        "fuzz_crashes": ("<=", 0),
        "strict_overhead": ("<=", 0.15),
    },
}
"""The figures of every benchmark, in the order in which its last line has them, and what is asked of them if anything is."""


@dataclass
class Table:
    """A table that is printed row by row as it is measured.

    Attributes
    ----------
    columns : mapping
        Heading to format, as `format` takes it; text where it is empty.
    rows : list
        Cells are text, numbers, or None where there is nothing to say.
    """

    columns: Mapping[str, str]
    rows: list[list[Any]] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        """Print a row, the headings before the first one."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for the columns {list(self.columns)}")
        self.rows.append([None if cell is None else cell if isinstance(cell, str | int) else float(cell) for cell in cells])
        lines = markdown({"columns": dict(self.columns), "rows": self.rows})
        print("\n".join(lines if len(self.rows) == 1 else lines[-1:]), flush=True)


def markdown(table: Mapping[str, Any]) -> list[str]:
    """Return the lines of a recorded table."""

    def cell(value: Any, form: str) -> str:
        return "" if value is None else value if isinstance(value, str) else format(value, form)

    rows = [[cell(value, form) for value, form in zip(row, table["columns"].values(), strict=True)] for row in table["rows"]]
    lines = [list(table["columns"]), *rows]
    out = ["| " + " | ".join(line) + " |" for line in lines]
    return [out[0], "|" + "---|" * len(table["columns"]), *out[1:]]


def measured(function: Callable[[], Any], repeats: int, enough_s: float = 2.0) -> tuple[float, Any]:
    """Return the least CPU seconds of a few calls, of one if it took longer than enough, and what the last call returned."""
    best, result = math.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
        if best > enough_s:
            break
    return best, result


def peak_mb() -> float:
    """Return the largest memory that this process had; getrusage would tell that of its parent, if it was larger."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def child(module: str, *arguments: Any) -> dict[str, Any]:
    """Run a benchmark's module as a process of one thread; return the JSON object of its last line."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, memory, and how busy the machine is."""
    info = Path("/proc/cpuinfo").read_text()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    flags = found.get("flags", "").split()
    kinds = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16 products", "amx_tile": "AMX"}
    return {
        "processor": found.get("model name", platform.processor()),
        "has": [name for flag, name in kinds.items() if flag in flags],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load": round(os.getloadavg()[0], 1),
    }


def commit() -> str:
    """Return the commit, with a plus where files were changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "benchmarks/*.py", "cohortex")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def figure_line(benchmark: str, figures: Mapping[str, float]) -> str:
    """Return the last line that a benchmark prints: its figures, as many as were measured."""
    unknown = figures.keys() - TARGETS[benchmark].keys()
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no figures of {benchmark}")
    return "FIGURE " + " ".join(f"{name}={figures[name]:.4g}" for name in TARGETS[benchmark] if name in figures)


class Run:
    """One run of a benchmark: when and where it began, and in the end its record.

    Parameters
    ----------
    benchmark : str
    packages : sequence of str
        Whose versions count.
    module : str, optional
        Of the command, where it is not called as the benchmark.
    """

    def __init__(self, benchmark: str, packages: Sequence[str], module: str = "") -> None:
        self.benchmark = benchmark
        self.module = f"benchmarks.{module or benchmark}"
        self.start = time.monotonic()
        self.about = {
            "benchmark": benchmark,
            "command": " ".join(["python -m", self.module, *_shown(sys.argv[1:])]),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "versions": {"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        }

    def end(self, tables: Mapping[str, Table], figures: Mapping[str, float], save: Path | None) -> None:
        """Print the figures, and write the record if it is wanted."""
        line = figure_line(self.benchmark, figures)
        if save is not None:
            record = self.about | {
                "minutes": round((time.monotonic() - self.start) / 60, 1),
                "tables": {name: {"columns": dict(table.columns), "rows": _rounded(table.rows)} for name, table in tables.items()},
                "figures": {name: float(f"{value:.4g}") for name, value in figures.items()},
            }
            save.parent.mkdir(parents=True, exist_ok=True)
            save.write_text(json.dumps(record, indent=1) + "\n")
        print(line)


def saved_before(file: Path | None) -> tuple[dict[str, Table], dict[str, Any]]:
    """Return the tables and figures of a record that is there already, for benchmarks whose parts are measured one by one."""
    if file is None or not file.is_file():
        return {}, {}
    before = json.loads(file.read_text(encoding="utf-8"))
    return {name: Table(each["columns"], each["rows"]) for name, each in before["tables"].items()}, dict(before["figures"])


def add_save(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the file of the record."""
    parser.add_argument("--save", type=Path, help="write what was measured to this JSON file (see benchmarks.tables)")


def _shown(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments without the file of the record, and without folders."""
    kept = [word for i, word in enumerate(arguments) if word != "--save" and (i == 0 or arguments[i - 1] != "--save")]
    return [Path(word).name if "/" in word else word for word in kept]


def _rounded(rows: list[list[Any]]) -> list[list[Any]]:
    """Return the rows with 5 digits of every number that is not whole."""
    return [[float(f"{cell:.5g}") if isinstance(cell, float) else cell for cell in row] for row in rows]
