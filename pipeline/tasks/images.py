"""The images of a task as its network takes them: as ingest left them, or AlexNet's features of them."""

import functools
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import Context, nd
from mxnet.gluon.model_zoo import vision

from pipeline.core.errors import InputError
from pipeline.tasks.base import Task
from pipeline.tasks.image_reading import DEVIATION, MEAN, ImageReader

AT_ONCE = 32  # pictures that go through AlexNet together


class Images(ImageReader):
    """See ImageReader."""

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


class ImageTask(Task):
    """A task whose records have an image each."""

    @functools.cached_property
    def images(self) -> Images:
        """What the records' images are."""
        return Images(self.config, self.folder)

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """The training split's distinct images as the network takes them: mapped, or AlexNet's features in memory."""
        rows = self.images.rows_of(self.train.fields["image"])
        return self.images.seen(self.images.raw[rows], Context("cpu"))
