"""PNG, JPEG and TIFF pictures as grey volumes of one slice."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import centred_affine, check_affine
from cohortex.io.paths import check_file, shown_name
from cohortex.io.plain import DEFLATE_MAX_RATIO
from cohortex.io.series import Frames, chosen_frames, framed, read_step
from cohortex.volume import Volume

MAX_PIXELS = 2**28
SCREEN_DPI = (72.0, 96.0)
"""Resolutions that writers put in without having measured anything."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def read_picture(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Read a picture as a volume of shape (x, y, 1), grey (Rec. 601 luma of colours).

    The pixel size is that of the resolution tags, or 1 mm where there are none or only a screen's 72 or 96 dpi. The
    first row lies in front and the first column on the patient's right, so that views show the picture as it is.

    Raises
    ------
    BadInput
        ``corrupt``, ``truncated``, ``too-large`` (more than 2^28 pixels), ``unsupported-type``.
    Skip
        ``four-d``: several pages, by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    size = check_file(path, name)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # in memory: of a file Pillow asks for as many bytes as a chunk declares, and that much is allocated before any is there
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                count = int(getattr(picture, "n_frames", 1))
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadInput("too-large", f"{name} declares {picture.width}x{picture.height} pixels: give a smaller picture.")
                if picture.format == "PNG" and picture.width * picture.height / 8 > size * DEFLATE_MAX_RATIO:
                    raise BadInput(
                        "truncated",
                        f"{name} declares {picture.width}x{picture.height} pixels, more than its {size} bytes can hold: copy it again.",
                    )
                chosen_frames(count, frames, name, "pages")
                spacing = _spacing(picture)
                pages = [_page(picture, i, role, name) for i in range(1 if frames == "first" else count)]
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, EOFError):
        raise BadInput("corrupt", f"{name} is not a picture that can be read: save it again as PNG.") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise BadInput("truncated", f"{name} is damaged or ends too early: copy it again from its source.") from None
    if len({page.shape for page in pages}) > 1:
        raise BadInput("mixed-geometry", f"{name} has pages of different sizes: save them as pictures of their own.")
    affine = check_affine(centred_affine(pages[0].shape, (*spacing, 1.0)), name)
    known = spacing != (1.0, 1.0)
    step = read_step("picture", pixel_size="resolution tags" if known else "unknown, 1 mm assumed", position="unknown, centred")
    return framed(lambda i: pages[i], count, frames, affine, role, name, step)


def _spacing(picture: Any) -> tuple[float, float]:
    dots = picture.info.get("dpi")
    try:
        x, y = float(dots[0]), float(dots[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return 1.0, 1.0
    if not (np.isfinite([x, y]).all() and min(x, y) > 0) or (round(x) in SCREEN_DPI and round(y) in SCREEN_DPI) or (x, y) == (1.0, 1.0):
        return 1.0, 1.0
    return 25.4 / x, 25.4 / y


def _page(picture: Any, index: int, role: str, name: str) -> np.ndarray:
    """Return one page with axes (x, y, 1)."""
    from PIL import ImageOps

    if index:
        picture.seek(index)
    page = ImageOps.exif_transpose(picture)
    if page.mode in ("LA", "RGBA", "PA"):
        page = page.convert({"LA": "L", "RGBA": "RGB", "PA": "P"}[page.mode])
    if (page.mode == "P" and role == "image") or page.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        page = page.convert("RGB")
    values = np.asarray(page)
    if values.ndim == 3:
        if role != "image":
            if not (values == values[..., :1]).all():
                raise BadInput("bad-labels", f"{name} is a coloured picture, but labels are whole numbers: save it as grey or indexed.")
            values = values[..., 0]
        else:
            values = values[..., :3].astype(np.float32) @ LUMA
    elif values.ndim != 2:
        raise BadInput("unsupported-type", f"{name} is not a grey or coloured picture: save it again as PNG.")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return np.ascontiguousarray(values.T[:, :, None])
