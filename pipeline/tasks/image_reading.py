"""The images of a folder of ids or a model, and an image that a person names. Imports no MXNet."""

import base64
import functools
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config
from pipeline.config.images import ImageConfig
from pipeline.core import atomic_files
from pipeline.core.errors import InputError, one_line
from pipeline.ingest.pictures import ARRAY, NAMES, SHAPE, picture
from pipeline.ingest.rows import BadRow, short_hash, shorten
from pipeline.tokenization.encoder import REMAKE

if TYPE_CHECKING:
    from pipeline.tokenization.shards import Texts

ALEXNET_PX = 224
GRID, VECTOR = (36, 256), (4096,)  # of AlexNet: its last convolution's, pooled to 6 x 6, and its next-to-last layer's
# mean and standard deviation of ImageNet's pixels, which the model zoo's weights were trained with
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
MAX_FILE_BYTES = 64 << 20
HOW = ("inject", "fusion")  # the setting of each section that says whether the places of an image are read


class ImageReader:
    """All images of a folder of ids, or of a trained model: that has none, but what reads a new one."""

    def __init__(self, config: Config, folder: Path) -> None:
        section, options = config.task, config.options(ImageConfig)
        self.section, self.options, self.folder = section, options, folder
        try:
            self.raw_shape = tuple(json.loads((folder / SHAPE).read_text(encoding="utf-8"))["shape"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / SHAPE} cannot be read ({error}): {REMAKE}") from None
        pictures = len(self.raw_shape) == 3
        if pictures == (options.features == "given"):
            what = "pictures" if pictures else "vectors"
            raise InputError(f"{section}.features={options.features} does not fit a source whose images are {what}")
        if options.features == "alexnet" and self.raw_shape[0] != ALEXNET_PX:
            raise InputError(f"{section}.features=alexnet needs ingest.source.size_px={ALEXNET_PX}")
        how = " or ".join(f"{name}={getattr(options, name)}" for name in HOW if hasattr(options, name))
        if options.over_places and len(self.raw_shape) == 1:
            raise InputError(f"{section}.{how} needs pictures, or a vector for each place of an image")
        if not options.over_places and len(self.raw_shape) == 2:
            raise InputError(f"{section}.{how} needs one vector for an image, not one per place")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image as the network takes it."""
        if self.options.features == "alexnet":
            return GRID if self.options.over_places else VECTOR
        return self.raw_shape

    @functools.cached_property
    def raw(self) -> np.ndarray:
        """(M, …) as ingest left them, mapped: uint8 pictures or float32 vectors."""
        try:
            array: np.ndarray = np.load(self.folder / ARRAY, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / ARRAY} cannot be read ({error}): {REMAKE}") from None
        return array

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        names = json.loads((self.folder / NAMES).read_text(encoding="utf-8"))
        return {short_hash(name): row for row, name in enumerate(names)}

    def rows_of(self, field: "Texts") -> np.ndarray:
        """(n,) which image each distinct one of a split's is."""
        return np.array([self._rows[key] for key in field.keys], np.int64)

    def small(self, rows: np.ndarray) -> np.ndarray:
        """Images to be compared pixel by pixel: every fourth row and column is enough."""
        raw = self.raw[rows]
        return raw[:, ::4, ::4] if raw.ndim == 4 else raw

    def read(self, image: Any) -> np.ndarray:
        """One image that a person named, as ingest would have left it.

        Args:
            image: the name of one of the folder's own; a path of a picture, or of a vector's .npy file; or the file's
                content as a data URL, `data:;base64,…`.

        Raises:
            InputError: it cannot be read, or has another shape than those trained on.
        """
        image = str(image)
        if (self.folder / NAMES).exists() and (row := self._rows.get(short_hash(image))) is not None:
            return np.asarray(self.raw[row])
        content, shown = _content(image), f"image {_shown(image)}"
        if len(self.raw_shape) == 3:
            try:
                return picture(content, self.raw_shape[0])
            except BadRow as error:
                raise InputError(f"{shown} cannot be used ({error})") from None
        try:
            vector = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False).astype(np.float32)
        except atomic_files.NOT_AN_ARRAY as error:
            raise InputError(f"{shown} cannot be read as numpy's .npy ({one_line(error, 100)})") from None
        if vector.shape != self.raw_shape or not np.isfinite(vector).all():
            raise InputError(f"an image must be {self.raw_shape} finite numbers, this one has shape {vector.shape}")
        return vector


def _content(image: str) -> bytes:
    """The bytes of a path or a data URL. Raises InputError."""
    if image.startswith("data:"):
        if len(image) > MAX_FILE_BYTES * 4 // 3:
            raise InputError(f"image {_shown(image)} is over {MAX_FILE_BYTES >> 20} MB")
        try:
            return base64.b64decode(image.partition("base64,")[2], validate=True)
        except ValueError as error:
            raise InputError(f"image {_shown(image)} is not a data URL with base64 ({error})") from None
    path = atomic_files.path_at_home(image)
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise InputError(f"image {_shown(image)} cannot be read (it is not a file)")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise InputError(f"image {path} is over {MAX_FILE_BYTES >> 20} MB")
        return content
    except (OSError, ValueError) as error:  # a name with a NUL in it is the latter
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"image {_shown(image)} cannot be read ({reason})") from None


def _shown(image: str) -> str:
    """A path, or the beginning of a data URL."""
    return f"{image[:30]}…" if image.startswith("data:") else shorten(image)
