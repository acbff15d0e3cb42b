"""A picture's file as numbers. Imports what serving a model has, no more."""

import io
import os
import sys
from typing import Any

import numpy as np

from pipeline.ingest.rows import BadRow

# What lies in ingest's folder, and is passed on to the folders of ids.
ARRAY, NAMES, SHAPE = "images.npy", "image_names.json", "images.json"
# Pillow knows more, but draws PostScript by running another program, and others by code that few have looked at.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PIXEL = np.uint8  # kind of a picture's numbers
MAX_PIXELS = 50_000_000  # of a file's picture, before it is made small


def _pillow() -> Any:
    """Pillow's Image, bound to the libraries that came with it.

    Horovod makes all of libmxnet's functions known to libraries that are loaded later, those of another libjpeg among
    them, with which Pillow reads no JPEG file.
    """
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        from PIL import Image
    finally:
        sys.setdlopenflags(flags)
    return Image


def picture(content: bytes, size_px: int) -> np.ndarray:
    """(size_px, size_px, 3) uint8 of a file of one of FORMATS, squeezed into a square.

    Raises:
        BadRow: it is not an image, a damaged one, or of too many pixels.
    """
    Image = _pillow()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadRow("image", f"{image.width} x {image.height} pixels are too many")
            return np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR))
    except BadRow:
        raise
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise BadRow("image", f"no readable image ({type(error).__name__})") from None
