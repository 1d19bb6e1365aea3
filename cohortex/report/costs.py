"""What a cohort took: time, memory and devices by stage, core hours, GPU hours, and money where prices are given."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cohortex.report import charts
from cohortex.report.records import Records

HOUR = 3600.0


@dataclass(frozen=True)
class Cost:
    """What was used: cores and GPUs by the hour, memory times hours (of each item its peak), and what that costs.

    Attributes
    ----------
    cpu_h, gpu_h, gb_h : float
        An item counts with the threads and the device that its job had, busy or not.
    money : float or None
        None where no price is given.
    currency : str
    an_image : float or None
        Money an image of the cohort.
    """

    cpu_h: float
    gpu_h: float
    gb_h: float
    money: float | None
    currency: str
    an_image: float | None


def times(records: Records) -> list[dict[str, Any]]:
    """Return one row a stage: how long its items took and what they used."""
    rows = []
    for stage in records.stages:
        timing = records.timing.get(stage, [])
        fresh = [one.seconds for one in timing if one.seconds > 0]
        if timing:
            rows.append(
                {
                    "stage": stage,
                    "items": len(timing),
                    "median_s": statistics.median(fresh) if fresh else 0.0,
                    "longest_s": max(fresh, default=0.0),
                    "total_s": sum(fresh),
                    "cpu_h": sum(max(one.seconds, 0.0) * max(one.threads, 1) for one in timing) / HOUR,
                    "gpu_h": sum(max(one.seconds, 0.0) for one in timing if one.device.startswith("cuda")) / HOUR,
                    "gb_h": sum(max(one.seconds, 0.0) * max(one.peak_mb, 0.0) for one in timing) / 1000 / HOUR,
                    "peak_mb": max(one.peak_mb for one in timing),
                    "hosts": len({one.host for one in timing} - {""}),
                    "devices": ", ".join(sorted({one.device for one in timing} - {""})),
                    "threads": ", ".join(str(count) for count in sorted({one.threads for one in timing} - {0})),
                    "resumed": sum(one.resumed for one in timing),
                }
            )
    longest = max((row["total_s"] for row in rows), default=0.0)
    for row in rows:
        row["bar"] = charts.share(row["total_s"] / longest if longest else 0.0, f"{row['stage']}: share of the longest stage")
    return rows


def cost(rows: Sequence[Mapping[str, Any]], images: int, prices: Mapping[str, Any] | None) -> Cost:
    """Return what the stages used in all, with its price.

    Parameters
    ----------
    rows : sequence of mapping
        Of `times`.
    images : int
        Of the cohort.
    prices : mapping, optional
        ``report.cost``: ``cpu_hour`` (of a core), ``gpu_hour``, ``gb_hour`` and ``currency``.
    """
    cpu, gpu, memory = (float(sum(row[name] for row in rows)) for name in ("cpu_h", "gpu_h", "gb_h"))
    if not prices:
        return Cost(cpu, gpu, memory, None, "", None)
    money = cpu * float(prices.get("cpu_hour", 0)) + gpu * float(prices.get("gpu_hour", 0)) + memory * float(prices.get("gb_hour", 0))
    return Cost(cpu, gpu, memory, money, str(prices.get("currency", "")), money / images if images else None)
