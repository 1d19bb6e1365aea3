"""First-order radiomic features: what the values of a region are, wherever they lie."""

from __future__ import annotations

import numpy as np

NAMES = (
    "mean",
    "variance",
    "skewness",
    "kurtosis",
    "median",
    "minimum",
    "p10",
    "p90",
    "maximum",
    "iqr",
    "range",
    "mad",
    "robust_mad",
    "median_ad",
    "cov",
    "qcod",
    "energy",
    "rms",
)
HISTOGRAM_NAMES = ("entropy", "uniformity")


def first_order(values: np.ndarray) -> dict[str, float]:
    """Return the intensity statistics of a region.

    Parameters
    ----------
    values : (n,) array
        The values inside the region, in the image's own unit. Values that are not finite are left out.

    Returns
    -------
    dict of str to float
        `NAMES`; all NaN for an empty region. Skewness, kurtosis (excess) and the coefficients of variation are NaN
        or 0 as the definition says: skewness and kurtosis of a constant region are 0.

    References
    ----------
    Zwanenburg et al., The Image Biomarker Standardization Initiative, Radiology 2020, doi:10.1148/radiol.2020191145
    (reference manual arXiv:1612.07003, section 3.3).
    """
    kept = values[np.isfinite(values)].astype(np.float64)
    if kept.size == 0:
        return dict.fromkeys(NAMES, float("nan"))
    mean = kept.mean()
    deviation = kept - mean
    variance = np.mean(deviation**2)
    sigma = np.sqrt(variance)
    minimum, p10, p25, median, p75, p90, maximum = np.percentile(kept, (0, 10, 25, 50, 75, 90, 100))
    middle = kept[(kept >= p10) & (kept <= p90)]
    constant = bool(variance <= 1e-12 * max(1.0, mean * mean))
    return {
        "mean": float(mean),
        "variance": float(variance),
        "skewness": 0.0 if constant else float(np.mean(deviation**3) / sigma**3),
        "kurtosis": 0.0 if constant else float(np.mean(deviation**4) / variance**2 - 3.0),
        "median": float(median),
        "minimum": float(minimum),
        "p10": float(p10),
        "p90": float(p90),
        "maximum": float(maximum),
        "iqr": float(p75 - p25),
        "range": float(maximum - minimum),
        "mad": float(np.mean(np.abs(deviation))),
        "robust_mad": float(np.mean(np.abs(middle - middle.mean()))),
        "median_ad": float(np.mean(np.abs(kept - median))),
        "cov": _ratio(sigma, mean),
        "qcod": _ratio(p75 - p25, p75 + p25),
        "energy": float(np.sum(kept**2)),
        "rms": float(np.sqrt(np.mean(kept**2))),
    }


def histogram(levels: np.ndarray) -> dict[str, float]:
    """Return entropy (bits) and uniformity of discretised values.

    Parameters
    ----------
    levels : (n,) integer array
        Levels from 1 on, as `cohortex.models.classify.radiomics.discretise` gives them.

    Returns
    -------
    dict of str to float
        `HISTOGRAM_NAMES`; NaN for an empty region (IBSI reference manual, section 3.4).
    """
    if levels.size == 0:
        return dict.fromkeys(HISTOGRAM_NAMES, float("nan"))
    share = np.bincount(levels.reshape(-1))[1:] / levels.size
    present = share[share > 0]
    return {"entropy": float(-np.sum(present * np.log2(present))), "uniformity": float(np.sum(share**2))}


def _ratio(above: float, below: float) -> float:
    """Return the ratio, NaN where the denominator is 0."""
    return float(above / below) if below != 0 else float("nan")
