"""Image to text: a vector, or a grid of them, and a decoder that is given it once, at every step, or by attention."""

from typing import Any

from mxnet import gluon, init, nd

from pipeline.config import ModelConfig
from pipeline.config.images import CONVOLUTIONS, EPSILON
from pipeline.models.attention import Memory
from pipeline.models.decoder import Decoder
from pipeline.models.search import State
from pipeline.models.words import Words


def normalized(x: nd.NDArray, axes: tuple[int, ...]) -> nd.NDArray:
    """x with mean 0 and variance 1 over `axes`."""
    x = nd.broadcast_sub(x, x.mean(axis=axes, keepdims=True))
    return nd.broadcast_div(x, ((x * x).mean(axis=axes, keepdims=True) + EPSILON).sqrt())


class SmallNet(gluon.Block):
    """Convolutions over (N, S, S, 3) uint8 pictures; nothing depends on the batch.

    deep: five, without normalization. light: three, each picture's values normalized after each (Ba et al., "Layer
    normalization", 2016).
    """

    def __init__(self, size_px: int, kind: str = "deep", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        side, inputs, self.kind = size_px, 3, kind
        with self.name_scope():
            self.layers = gluon.nn.Sequential()
            for channels, stride in CONVOLUTIONS[kind]:
                self.layers.add(
                    gluon.nn.Conv2D(
                        channels, 3, strides=stride, padding=1, in_channels=inputs,
                        weight_initializer=init.MSRAPrelu(slope=0.0),
                    )
                )  # fmt: skip
                side, inputs = -(-side // stride), channels
        self.places, self.width = side * side, inputs

    def forward(self, pictures: nd.NDArray) -> nd.NDArray:
        """(N, places, width) the last convolution's grid, row by row."""
        x = pictures.astype("float32").transpose((0, 3, 1, 2)) / 64
        x = nd.broadcast_sub(x, x.mean(axis=(2, 3), keepdims=True))  # how light a picture is says nothing
        for convolution in self.layers:
            x = convolution(x)
            x = nd.relu(normalized(x, (1, 2, 3)) if self.kind == "light" else x)
        return x.reshape((0, 0, -1)).swapaxes(1, 2)


class Captioner(gluon.Block):
    """Images to the log probabilities of captions.

    first: h_1 = f(W_hx x_1 + W_ih v + …), h_t = f(W_hx x_t + …) after it (Karpathy and Fei-Fei, "Deep visual-semantic
    alignments for generating image descriptions", 2015), with x_1 the border: the kernel reads [x_t; v] at the first
    step and [x_t; 0] at the others, and [W_hx, W_ih] is one matrix. every: [x_t; v] at each step (Vinyals et al. and
    others compared it). attention: over the grid's places (Xu et al., "Show, attend and tell", 2015, soft), each of
    which has a learnt vector of its own added, so that it can be told where it is.

    Args:
        inject: "first", "every" or "attention".
        shape: of one image: (S, S, 3) pictures, for the small net; (D,) a vector; (L, W) a grid.
        net: the small net's kind.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: int, inject: str, shape: tuple[int, ...], net: str = "deep",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.inject = inject
        embedding = config.embedding
        with self.name_scope():
            self.words = Words(vocabulary, embedding)
            self.net = SmallNet(shape[0], net) if len(shape) == 3 else None
            grid = (self.net.places, self.net.width) if self.net else shape
            if inject == "attention":
                self.position = self.params.get("position", shape=(1, *grid), init=init.Normal(0.1))
                self.decoder = Decoder(config, embedding, embedding, "scaled", memory=grid[1], summary=grid[1])
                return
            width = shape[0]
            if self.net:
                width = config.hidden
                self.vector = gluon.nn.Dense(
                    width, activation="relu", in_units=grid[0] * grid[1], weight_initializer=init.Xavier()
                )
            self.decoder = Decoder(config, embedding + width, embedding)

    def look(self, images: nd.NDArray) -> tuple[State, State]:
        """(N, *shape) images to the decoder's first state, with whether it is the first, and what stays: the vector
        (N, D), or a Memory of the grid."""
        seen = self.net(images) if self.net else images
        fresh = nd.ones((images.shape[0], 1), ctx=images.context)
        if self.inject == "attention":
            seen = nd.broadcast_add(seen, self.position.data(seen.context))
            memory = self.decoder.remember(seen, nd.zeros(seen.shape[:2], ctx=seen.context))
            return [*self.decoder.start(seen.mean(axis=1)), fresh], list(memory)
        vector = self.vector(seen) if self.net else seen
        return [*self.decoder.start(vector), fresh], [vector]

    def forward(self, ids: nd.NDArray, state: State, memory: State) -> tuple[nd.NDArray, State, nd.NDArray | None]:
        """(T, N) ids, the border first, to (T, N, E) features, the state after them and any (N, T, L) attention."""
        inputs, (*state, fresh) = self.words(ids), state
        later = nd.zeros_like(fresh)
        if self.inject == "attention":
            features, state, weights = self.decoder(inputs, state, Memory(*memory))
            return features, [*state, later], weights
        vector = memory[0].expand_dims(0)
        if self.inject == "every":
            vectors = nd.broadcast_axis(vector, axis=0, size=ids.shape[0])
        else:
            vectors = nd.broadcast_mul(vector, fresh.expand_dims(0))
            if ids.shape[0] > 1:
                shape = (ids.shape[0] - 1, *vector.shape[1:])
                vectors = nd.concat(vectors, nd.zeros(shape, ctx=vector.context), dim=0)
        features, state, _ = self.decoder(nd.concat(inputs, vectors, dim=2), state, None)
        return features, [*state, later], None

    def step(self, last: nd.NDArray, state: State, memory: State) -> tuple[nd.NDArray, State]:
        """One step for `search`: (R,) last tokens to (R, V + 1) log probabilities, and the state after it."""
        features, state, _ = self(last.expand_dims(0), state, memory)
        return self.words.log_probabilities(features[0]), state
