"""Heads of any resolution that are drawn box by box, for the tests of subjects larger than memory.

``python -m tests.large_heads FOLDER MEMORY_MB SPARE_MB`` takes the files of FOLDER through regseg and classify with so much memory for
blocks, in a process that may have no more than SPARE_MB of private memory beyond what Python and its libraries took.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import yaml

from cohortex.blocks import Plan, planned
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.items import Image
from cohortex.lazy import Boxed
from cohortex.volume import Volume

SHIFT_MM = (6.0, -5.0, 4.0)
"""By which the CT lies elsewhere."""
HALF_MM = (84.0, 95.0, 90.0)
CLASSES = ["background", "csf", "grey_matter", "white_matter", "bone", "soft_tissue", "lesion"]
CARD = {
    "name": "m",
    "sha256": "0" * 64,
    "modality": ["any"],
    "body_part": ["any"],
    "dimensions": [2, 3],
    "spacing_mm": {"min": 0.1, "max": 9.0},
    "classes": CLASSES,
    "extra": {"fixed": "T1w", "moving": "CT", "working_spacing_mm": 6.0},
}


class Egg(Boxed):
    """An off-centre egg with two cores: a T1w, a CT that is `bulge_mm` rounder, or labels of the cores (2, 3)."""

    def __init__(self, modality: str, spacing_mm: tuple[float, float, float], bulge_mm: float = 0.0, labels: bool = False):
        self.modality, self.spacing, self.bulge, self.labels = modality, spacing_mm, bulge_mm, labels
        self.shape = tuple(round(2 * half / step) for half, step in zip(HALF_MM, spacing_mm, strict=True))
        self.dtype = np.dtype(np.uint8 if labels else np.float32)
        self.noise = np.random.default_rng(len(modality)).standard_normal((64, 64, 64)).astype(np.float32)

    def box(self, box) -> np.ndarray:
        """Draw a box."""
        shift = SHIFT_MM if self.modality == "CT" else (0.0, 0.0, 0.0)
        axes = np.ogrid[tuple(slice(a, b) for a, b in box)]
        at = [axis * step - half - move for axis, step, half, move in zip(axes, self.spacing, HALF_MM, shift, strict=True)]

        def egg(middle, radii):
            return sum(((a - m) / (r + self.bulge)) ** 2 for a, m, r in zip(at, middle, radii, strict=True)) < 1

        outer, inner, front = egg((0, 0, 0), (62, 74, 68)), egg((14, 20, 10), (24, 22, 20)), egg((-18, -30, 6), (15, 15, 18))
        labels = outer.astype(np.uint8) + inner + 2 * (front & ~inner)
        if self.labels:
            return np.where(labels > 1, labels, 0).astype(np.uint8)
        values = np.array([-1000.0, 20.0, 60.0, 90.0] if self.modality == "CT" else [0.0, 300.0, 120.0, 210.0], np.float32)
        return values[labels] + (3 if self.modality == "CT" else 6) * self.noise[np.ix_(*(axis.ravel() % 64 for axis in axes))]


def head(modality: str, spacing_mm=(2.2, 2.0, 2.4), bulge_mm: float = 0.0, labels: bool = False) -> Volume:
    """Return such a head, lazily."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-half for half in HALF_MM]
    return Volume(Egg(modality, spacing_mm, bulge_mm, labels), affine, modality, "labels" if labels else "image", "head")


def as_image(name: str, volume: Volume, path: Path | None = None) -> Image:
    """Give a volume to a stage; with a path as a file that is read when it is wanted."""
    role = "labels" if volume.kind == "labels" else "image"
    if path is None:
        return Image(name, "1", "", volume.modality, volume.kind, role, "head", opener=lambda: volume)
    if not path.exists():
        write_ozx(path, volume)
    return Image(name, "1", "", volume.modality, volume.kind, role, "head", opener=lambda: read_ozx(path))


def joint(segment_spacing_mm: float = 4.0):
    """Return a joint model whose networks were never trained but say every class somewhere."""
    import torch

    from cohortex.inference import channels_last
    from cohortex.models import registry
    from cohortex.stages.regseg import Joint

    networks = {}
    for seed, modality in ((7, "T1w"), (1, "CT")):
        torch.manual_seed(seed)
        network = registry.build("segment", "unet3d_small", features=[4, 6], classes=len(CLASSES)).eval()
        with torch.no_grad():
            network.head.weight *= 20
            network.head.bias -= network(torch.rand(1, 1, 32, 32, 32)).mean((0, 2, 3, 4))
        networks[modality] = channels_last(network)
    card = CARD | {"extra": CARD["extra"] | {"segment_spacing_mm": segment_spacing_mm}}
    return {"m": Joint(card, torch.nn.Identity(), networks, "cpu")}


def regseg_section(root: Path) -> dict:
    """Return the shipped settings with a quick deformation."""
    default = yaml.safe_load((root / "config.yaml").read_text())["regseg"]["default"]
    deformable = {"method": "instance", "refine_steps": 4, "scales": [[1, 1]], "smooth": 1}
    affine = {"method": "none", "starts": ["header"]}
    return {"default": default | {"weights": "m", "working_spacing_mm": 6.0, "deformable": deformable, "affine": affine}}


def held_mb() -> int:
    """Return the private memory of this process, as RLIMIT_DATA counts it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """See the module."""
    folder, memory_mb, spare_mb = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    from cohortex.stages.classify import classify
    from cohortex.stages.regseg import regseg
    from cohortex.threads import set_threads

    set_threads(1)
    section, model = regseg_section(Path(__file__).parents[1]), joint(8.0)

    def work(files: list[Image]) -> None:
        made = regseg(files[:2], section, model, 0)
        for each in made:
            if isinstance(each.content, Volume):
                write_ozx(folder / "made.ozx", each.content)
        tags = {each.tag for each in made}
        assert {"field", "warped", "warpedseg", "CTseg", "seg"} <= tags, tags
        (table,) = [each.content for each in classify(files, {"default": {}}, {}, 0) if each.tag == "features"]
        assert np.isfinite(table["value"]).sum() > 20

    coarse = (5.0, 5.0, 5.0)
    small = {"1_T1w": head("T1w", coarse), "1_CT": head("CT", coarse, 7.0), "1_T1w+seg": head("T1w", coarse, labels=True)}
    with planned(Plan(memory_mb=memory_mb, scratch=folder)):
        # what is compiled, or looked up in libraries, on the first call does not count
        work([as_image(name, volume) for name, volume in small.items()])
        before = held_mb()
        resource.setrlimit(resource.RLIMIT_DATA, ((before + spare_mb) * 2**20,) * 2)
        files = [as_image(name, volume, folder / f"{name}.ozx") for name, volume in small.items()]
        work(files)
        try:
            held = [image.volume.array() for image in files[:2]]
        except MemoryError:
            sys.stdout.write(f"{before} MB before, {held_mb()} MB at the end, and no room for both images\n")
        else:
            sys.exit(f"there is room for {len(held)} images, so the limit shows nothing")


if __name__ == "__main__":
    main()
