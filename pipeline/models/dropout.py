"""Dropout whose masks can be drawn again."""

from typing import Any

from mxnet import gluon


class Dropout(gluon.nn.Dropout):
    """Gluon's, by MXNet's own kernel on a GPU too: `mx.random.seed` does not reach cuDNN's (apache/mxnet#15662)."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """An array of x's shape; x itself where nothing is dropped, which Gluon would copy."""
        if not self._rate:
            return x
        return F.Dropout(x, p=self._rate, axes=self._axes, cudnn_off=True)
