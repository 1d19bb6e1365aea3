"""Deflated DICOM: how much comes out is looked at before a library takes it into memory as a whole."""

from __future__ import annotations

import zlib
from pathlib import Path

from cohortex.errors import BadInput

SYNTAX = b"1.2.840.10008.1.2.1.99"
MOST_BYTES = 100 * 2**20
MOST_RATIO = 100
"""A file may come to `MOST_BYTES`, or to so many times its size; images of scanners come to 2 to 10 times."""
STEP = 2**20
PREAMBLE = 132


def check_inflated(path: Path, start: bytes, name: str) -> None:
    """Refuse a deflated file that would come to far more than an image, reading it a piece at a time.

    Parameters
    ----------
    start : bytes
        The first 512 bytes, which hold the name of the transfer syntax.

    Raises
    ------
    BadInput
        ``too-large``; ``truncated`` when the stream is damaged or ends too early.
    """
    if SYNTAX not in start:
        return
    # group length: tag, UL, two bytes of length, then the number of bytes that follow it
    head = PREAMBLE + 12 + int.from_bytes(start[PREAMBLE + 8 : PREAMBLE + 12], "little")
    size, made = path.stat().st_size, 0
    most = max(MOST_BYTES, MOST_RATIO * size)
    pump = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with path.open("rb") as file:
            file.seek(head)
            while not pump.eof:
                given = pump.unconsumed_tail or file.read(STEP)
                if not given:
                    raise BadInput("truncated", f"{name} ends inside its compressed data: copy it again from its source.")
                made += len(pump.decompress(given, STEP))
                if made > most:
                    raise BadInput(
                        "too-large",
                        f"{name} ({size / 2**20:.1f} MB) unpacks to more than {most >> 20} MB, which no image does: leave it out.",
                    )
    except zlib.error:
        raise BadInput("truncated", f"{name} has damaged compressed data: copy it again from its source.") from None
