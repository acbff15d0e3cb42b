"""The images of a task: the array that ingest left, AlexNet's features of it, and an image that a person names."""

import functools
import json
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import Context, nd
from mxnet.gluon.model_zoo import vision

from pipeline.config.images import ImageConfig
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.ingest import images
from pipeline.ingest.rows import BadRow, short_hash
from pipeline.tokenization.encoder import REMAKE
from pipeline.tokenization.shards import Texts

ALEXNET_PX = 224
GRID, VECTOR = (36, 256), (4096,)  # of AlexNet: its last convolution's, pooled to 6 x 6, and its next-to-last layer's
AT_ONCE = 32  # pictures that go through AlexNet together
# mean and standard deviation of ImageNet's pixels, which the model zoo's weights were trained with
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
MAX_FILE_BYTES = 64 << 20
HOW = ("inject", "fusion")  # the setting of each section that says whether the places of an image are read


class Images:
    """All images of a folder of ids, or of a trained model: that has none, but what reads a new one."""

    def __init__(self, section: str, options: ImageConfig, folder: Path) -> None:
        """`section` is the name of the options' section, for what an error says."""
        self.section, self.options, self.folder = section, options, folder
        try:
            self.raw_shape = tuple(json.loads((folder / images.SHAPE).read_text(encoding="utf-8"))["shape"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / images.SHAPE} cannot be read ({error}): {REMAKE}") from None
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
            array: np.ndarray = np.load(self.folder / images.ARRAY, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / images.ARRAY} cannot be read ({error}): {REMAKE}") from None
        return array

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        names = json.loads((self.folder / images.NAMES).read_text(encoding="utf-8"))
        return {short_hash(name): row for row, name in enumerate(names)}

    def rows_of(self, field: Texts) -> np.ndarray:
        """(n,) which image each distinct one of a split's is."""
        return np.array([self._rows[key] for key in field.keys], np.int64)

    def small(self, rows: np.ndarray) -> np.ndarray:
        """Images to be compared pixel by pixel: every fourth row and column is enough."""
        raw = self.raw[rows]
        return raw[:, ::4, ::4] if raw.ndim == 4 else raw

    def seen(self, raw: np.ndarray, context: Context) -> np.ndarray:
        """(n, *shape) of n images as ingest left them."""
        if self.options.features != "alexnet":
            return raw
        parts = [self._alexnet(raw[i : i + AT_ONCE], context) for i in range(0, len(raw), AT_ONCE)]
        return np.concatenate([np.zeros((0, *self.shape), np.float32), *parts])

    def _alexnet(self, pictures: np.ndarray, context: Context) -> np.ndarray:
        x = nd.array(((pictures / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2), context)
        for layer in self._layers:
            if self.options.over_places and isinstance(layer, mx.gluon.nn.Flatten):
                return x.reshape((0, 0, -1)).swapaxes(1, 2).asnumpy()
            x = layer(x)
        return x.asnumpy()

    @functools.cached_property
    def _layers(self) -> list[Any]:
        net, path = vision.alexnet(prefix="alexnet_"), self.options.weights
        try:
            net.load_parameters(path)
        except Exception as error:  # MXNet's own errors, and Python's
            first = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{self.section}.weights={path} holds no parameters of the model zoo's AlexNet ({first})"
            ) from None
        return list(net.features)

    def read(self, image: Any) -> np.ndarray:
        """One image that a person named, as ingest would have left it.

        Args:
            image: the name of one of the folder's own, or a path: of a picture, or of a vector's .npy file.

        Raises:
            InputError: it cannot be read, or has another shape than those trained on.
        """
        if (self.folder / images.NAMES).exists() and (row := self._rows.get(short_hash(str(image)))) is not None:
            return np.asarray(self.raw[row])
        path = atomic_files.path_at_home(str(image))
        if len(self.raw_shape) == 3:
            try:
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise InputError(f"image {path} is over {MAX_FILE_BYTES >> 20} MB")
                return images.picture(path.read_bytes(), self.raw_shape[0])
            except OSError as error:
                raise InputError(f"image {path} cannot be read ({error.strerror})") from None
            except BadRow as error:
                raise InputError(f"image {path} cannot be used ({error})") from None
        try:
            vector = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"image {path} cannot be read as numpy's .npy ({error})") from None
        if vector.shape != self.raw_shape or not np.isfinite(vector).all():
            raise InputError(f"an image must be {self.raw_shape} finite numbers, this one has shape {vector.shape}")
        return vector
