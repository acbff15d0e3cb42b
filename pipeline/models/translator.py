"""Text to text: a bidirectional encoder, a decoder that attends to it, one table of embeddings for all three uses."""

from typing import Any

from mxnet import gluon, nd

from pipeline.config import ModelConfig
from pipeline.models.attention import Memory
from pipeline.models.decoder import Decoder
from pipeline.models.encoder import Encoder, Pooling, padding_of
from pipeline.models.search import State
from pipeline.models.words import Words


class Translator(gluon.Block):
    """Source ids to the log probabilities of target ids.

    One table of embeddings reads the source, reads the target and writes it (Press and Wolf 2017: three-way tying). The
    decoder starts from the ends of the encoder's reading.

    Args:
        vocabulary: V tokens.
        attention: see `pipeline.models.attention.ATTENTIONS`.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, attention: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.words = Words(vocabulary, config.embedding)
            self.encoder = Encoder(config)
            self.pooling = Pooling("last", config.hidden, config.directions)
            width = self.encoder.width
            self.decoder = Decoder(config, config.embedding, config.embedding, attention, memory=width, summary=width)

    def encode(self, ids: nd.NDArray, lengths: nd.NDArray) -> tuple[Memory, State]:
        """(T, N) int32 source ids and their (N,) int32 lengths to what the decoder attends to, and its first state."""
        padding = padding_of(lengths, ids.shape[0])
        states = self.encoder(self.words(ids), padding)
        memory = self.decoder.remember(states.swapaxes(0, 1), padding.squeeze(axis=2).T)
        return memory, self.decoder.start(self.pooling(states, lengths, padding))

    def forward(self, ids: nd.NDArray, state: State, memory: Memory) -> tuple[nd.NDArray, nd.NDArray]:
        """Teacher forcing: (T, N) ids, the border first, to (T, N, E) features and the (N, T, L) attention."""
        features, _, weights = self.decoder(self.words(ids), state, memory)
        return features, weights

    def step(self, last: nd.NDArray, state: State, memory: State) -> tuple[nd.NDArray, State]:
        """One step for `search`: (R,) last tokens to (R, V + 1) log probabilities, and the state after it."""
        features, state, _ = self.decoder(self.words(last.expand_dims(0)), state, Memory(*memory))
        return self.words.log_probabilities(features[0]), state
