"""One registration by a program of another environment, for `benchmarks.registration`; run by that environment's Python, alone.

    python registration_peers.py greedy|elastix|convexadam PAIR.npz FOUND.npz

The pair holds `fixed` and `moving` (X, Y, Z) float32 and `spacing` in mm; what is found holds `displacement` (3, X, Y, Z) in voxels, from
the fixed to the moving image, and `seconds` of CPU. Settings are those that the programs' own pages give for such images.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np


def greedy(fixed: np.ndarray, moving: np.ndarray, spacing: float) -> np.ndarray:
    """Return the displacement that picsl-greedy finds with local cross-correlation."""
    import picsl_greedy  # type: ignore[import-not-found]
    import SimpleITK

    images = []
    for array in (fixed, moving):
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        image.SetSpacing((spacing,) * 3)
        images.append(image)
    program: Any = picsl_greedy.Greedy3D()
    words = "-d 3 -threads 1 -m NCC 2x2x2 -i fixed moving -n 100x50x10 -o warp"
    program.execute(words, fixed=images[0], moving=images[1], warp=None)
    return SimpleITK.GetArrayFromImage(program["warp"]).transpose(3, 2, 1, 0) / spacing


def elastix(fixed: np.ndarray, moving: np.ndarray, spacing: float) -> np.ndarray:
    """Return the displacement that elastix finds with B-splines 8 mm apart, mutual information and bending energy: its defaults."""
    import itk  # type: ignore[import-not-found]

    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    images = []
    for array in (fixed, moving):
        image = itk.image_from_array(np.ascontiguousarray(array.transpose(2, 1, 0)))
        image.SetSpacing((spacing,) * 3)
        images.append(image)
    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap("bspline", 4, 8.0)
    settings["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(settings)
    _, transform = itk.elastix_registration_method(*images, parameter_object=parameters, number_of_threads=1)
    field = itk.transformix_deformation_field(images[1], transform)
    return np.asarray(itk.array_from_image(field)).transpose(3, 2, 1, 0) / spacing


def convexadam(fixed: np.ndarray, moving: np.ndarray, spacing: float) -> np.ndarray:
    """Return the displacement that convexAdam finds on self-similarities."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    return np.moveaxis(np.asarray(convex_adam_pt(fixed, moving, dtype=torch.float32, device=torch.device("cpu"))), -1, 0)


def main() -> None:
    """Register the pair of a file."""
    name, source, target = sys.argv[1:]
    pair = np.load(source)
    run = {"greedy": greedy, "elastix": elastix, "convexadam": convexadam}[name]
    small = np.ascontiguousarray(pair["fixed"][:40, :40, :40])
    if name == "convexadam":
        # its first call would count the start of the library
        run(small, small, float(pair["spacing"]))
    started = time.process_time()
    found = run(pair["fixed"], pair["moving"], float(pair["spacing"]))
    np.savez(target, displacement=found.astype(np.float32), seconds=time.process_time() - started)


if __name__ == "__main__":
    main()
