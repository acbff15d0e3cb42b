"""A recurrent language model: what it has read so far to the logits of the next token."""

from typing import Any

from gluonnlp.model import ISDense
from mxnet import Context, autograd, gluon, init, nd

from pipeline.config import LanguageModelConfig, ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.models.recurrent import RecurrentLayer, read_on
from pipeline.models.sampled import Candidates

States = list[nd.NDArray]  # (1, N, hidden) each: h of the first layer, its c if it is an LSTM, h of the second, …


class ReadingLayer(RecurrentLayer):
    """One layer forwards that begins in a given state and tells the one that it ends in."""

    def __init__(self, cell: str, inputs: int, hidden: int, weight_dropout: float, **kwargs: Any) -> None:
        super().__init__(cell, inputs, hidden, 1, **kwargs)
        self.weight_dropout = weight_dropout

    def packed(self, context: Context) -> nd.NDArray:
        """As above, with recurrent weights dropped for all steps alike (DropConnect: Merity et al. 2018, section 2)."""
        i2h, h2h, i2h_bias, h2h_bias = (
            getattr(self, f"f_{name}").data(context) for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
        )
        if self.weight_dropout:
            h2h = nd.Dropout(h2h, p=self.weight_dropout, cudnn_off=True)
        return nd.concat(i2h.reshape(-1), h2h.reshape(-1), i2h_bias, h2h_bias, dim=0)

    def forward(self, x: nd.NDArray, states: States, packed: nd.NDArray) -> tuple[nd.NDArray, States]:
        """(T, N, inputs) and one or two (1, N, hidden) states to (T, N, hidden) and the states after."""
        return read_on(self.cell, self.hidden, x, states, packed)


class LanguageModel(gluon.Block):
    """Embedding, layers of recurrent cells, softmax over the vocabulary (Mikolov et al. 2010; Zaremba et al. 2014).

    Dropout stands before each layer and before the output. `variational`: one mask for all steps of a call (Gal and
    Ghahramani 2016). `tied`: the output's weights are the embedding (Press and Wolf 2017). `sampled`: see
    `sampled_losses`.
    """

    def __init__(self, model: ModelConfig, settings: LanguageModelConfig, vocabulary: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.residual, self.vocabulary = model.hidden, model.residual, vocabulary
        self.states_per_layer = model.steps_by.states
        with self.name_scope():
            # as Zaremba et al.: small enough for tied weights to begin near equal chances
            start = init.Uniform(0.1)
            self.words = gluon.nn.Embedding(vocabulary, model.embedding, weight_initializer=start)
            self.dropout = Dropout(model.dropout, axes=(0,) if settings.variational else ())
            self.layers = gluon.nn.Sequential()
            self.norms = gluon.nn.Sequential()
            inputs = model.embedding
            for _ in range(model.layers):
                self.layers.add(ReadingLayer(model.cell, inputs, model.hidden, settings.weight_dropout))
                if model.layer_norm:
                    self.norms.add(gluon.nn.LayerNorm(in_channels=model.hidden))
                inputs = model.hidden
            shared = {"params": self.words.params} if settings.tied else {}
            if settings.sampled:
                # Horovod's exchange and the clipping need dense gradients
                self.output = ISDense(
                    vocabulary, settings.sampled, inputs, sparse_grad=False,
                    weight_initializer=None if settings.tied else start, **shared,
                )  # fmt: skip
            else:
                self.output = gluon.nn.Dense(
                    vocabulary, flatten=False, in_units=inputs,
                    weight_initializer=None if settings.tied else start, **shared,
                )  # fmt: skip

    def begin(self, count: int, context: Context) -> States:
        """The states of `count` texts of which nothing has been read."""
        return [nd.zeros((1, count, self.hidden), ctx=context) for _ in range(len(self.layers) * self.states_per_layer)]

    def packed(self, context: Context) -> list[nd.NDArray]:
        """Each layer's parameters as its kernel takes them; worth making once where several calls follow."""
        return [layer.packed(context) for layer in self.layers]

    def forward(
        self, ids: nd.NDArray, states: States, packed: list[nd.NDArray] | None = None
    ) -> tuple[nd.NDArray, States]:
        """Reads on: (T, N) int32 tokens after `states` to (T, N, hidden) outputs, dropped out, and the states after."""
        x, after = self.words(ids), []
        for i, (layer, weights) in enumerate(zip(self.layers, packed or self.packed(ids.context))):
            x = self.dropout(x)
            own = states[i * self.states_per_layer : (i + 1) * self.states_per_layer]
            y, ended = layer(x, own, weights)
            if len(self.norms):
                y = self.norms[i](y)
            x = y + x if self.residual and y.shape == x.shape else y
            after += ended
        return self.dropout(x), after

    def logits(self, outputs: nd.NDArray) -> nd.NDArray:
        """(…, hidden) outputs to (…, V) logits of the next token."""
        context = outputs.context
        weight, bias = self.output.weight.data(context), self.output.bias.data(context)
        return nd.FullyConnected(outputs, weight, bias, num_hidden=self.vocabulary, flatten=False)

    def losses(self, outputs: nd.NDArray, targets: nd.NDArray) -> nd.NDArray:
        """(T, N, hidden) outputs and (T, N) targets to (T * N,) cross entropies in nats."""
        logits = self.logits(outputs.reshape((-1, self.hidden)))
        return -nd.pick(nd.log_softmax(logits), targets.reshape(-1))

    def sampled_losses(self, outputs: nd.NDArray, targets: nd.NDArray, candidates: Candidates) -> nd.NDArray:
        """As `losses`, over each target and the same candidates for all, their logits corrected by -log(expected).

        A biased estimate of the whole cross entropy that gets better with the number of candidates: for training only.
        """
        assert autograd.is_recording(), "the sampled softmax only trains"
        context = outputs.context
        sampled = [
            nd.array(candidates.ids, context, "int32"),
            nd.array(candidates.expected, context),
            nd.array(candidates.expected_targets, context),
        ]
        predicted, _ = self.output(outputs.reshape((-1, self.hidden)), sampled, targets.reshape(-1))
        return -nd.slice_axis(nd.log_softmax(predicted), axis=1, begin=0, end=1).reshape(-1)
