"""Where networks run."""

from __future__ import annotations

from cohortex.errors import Refused


def choose_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        auto takes a GPU where this job sees one. ``cpu`` does not import torch.

    Raises
    ------
    Refused
        For another word, or for ``cuda`` where there is none.
    """
    if wanted == "cpu":
        return "cpu"
    if wanted not in ("auto", "cuda"):
        raise Refused(f"device is auto, cpu or cuda, not {wanted!r}.")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise Refused("device is cuda, but this job sees no CUDA device: ask for one (gpu: 1), or set device to auto or cpu.")
    return "cpu"


def smaller(block: tuple[int, int, int], device: str, least: int = 32) -> tuple[tuple[int, int, int], str]:
    """Return the next thing to try after a GPU ran out of memory: half the longest edge of the block, then the CPU.

    Parameters
    ----------
    block : three ints
        What was too large.
    device : str
        Where it was.
    least : int
        Blocks with no edge longer than this are not cut again.

    Returns
    -------
    block, device
    """
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
    longest = max(block)
    if device == "cpu" or longest <= least:
        return block, "cpu"
    cut = list(block)
    cut[block.index(longest)] = -(-longest // 2)
    return (cut[0], cut[1], cut[2]), device
