"""Representations by the MXNet network itself, for whoever asks for it: `--backend mxnet`."""

from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.evaluation import confidence, overlap
from pipeline.models.kernel import operator
from pipeline.models.matcher import Matcher
from pipeline.models.parameters import parameters_of
from pipeline.serving import second_stage
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.predict.base import MatchingPredictor
from pipeline.serving.predict.scoring import Represent, Scorer
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization.encoder import load_tokenizer


def set_parameters(network: gluon.Block, arrays: Mapping[str, np.ndarray], kernel: str) -> None:
    """Gives a network its trained arrays by structural name. Raises InputError where names or shapes do not fit.

    Args:
        kernel: model.kernel, which then holds for the whole process. own falls back to MXNet's layers, as vectors are
            the same but for float noise.
    """
    operator.use(kernel)
    network.initialize(ctx=mx.cpu())
    for name, parameter in parameters_of(network).items():
        if name not in arrays or arrays[name].shape != parameter.shape:
            shape = arrays[name].shape if name in arrays else "none"
            raise InputError(
                f"parameter {name} of the model has shape {shape} where its configuration asks for {parameter.shape}: "
                "parameters.npz and config.json are not of one training"
            )
        parameter.set_data(nd.array(arrays[name]))


def matcher_of(config: Config, arrays: Mapping[str, np.ndarray]) -> Matcher:
    """The matching network with its trained parameters."""
    network = Matcher(config.model, len(arrays["embedding"]), config.train.loss.outputs, prefix="matcher_")
    set_parameters(network, arrays, config.model.kernel)
    return network


def represent_with(config: Config, arrays: Mapping[str, np.ndarray]) -> Represent:
    """What `TextEncoder` calls: one side's padded batch to vectors and weights."""
    network, context = matcher_of(config, arrays), mx.cpu()
    table = network.embedding.data(context)
    by_token = config.model.scored_by.by_token

    def represent(side: str, ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        inputs = nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32")
        representation = network.represent(side, table, *inputs)
        return representation.vectors.asnumpy(), representation.weights.asnumpy() if by_token else None

    return represent


def open_encoder(config: Config, folder: Path) -> TextEncoder:
    """A matching model's encoders, as `onnx_matching.open_encoder` opens them."""
    arrays, answering = read_parameters(folder), confidence.load_answering(folder)
    scorer, joined = Scorer(config, arrays), overlap.load(folder, config.train.loss.grades)
    represent = represent_with(config, arrays)
    return TextEncoder(config, load_tokenizer(folder), represent, scorer, 1, answering, joined)


def open_predictor(config: Config, folder: Path) -> MatchingPredictor:
    """As `open_encoder`, for rows; with the second stage that an exported folder holds."""
    predictor = MatchingPredictor(open_encoder(config, folder), "mxnet")
    opens = lambda second: open_encoder(read_config(second), second)
    predictor.second = second_stage.opened(second_stage.carried(folder), str(folder), opens)
    return predictor
