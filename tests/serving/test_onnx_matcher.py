"""ONNX Runtime against MXNet: every cell, depth, direction, pooling and head, over random lengths."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.evaluation.grades import grade_probabilities
from pipeline.serving.onnx import eight_bits, matcher
from pipeline.serving.predict.scoring import Encoded, Scorer
from tests.serving.networks import config_of, random_network, random_texts, randomise, represent

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
POOLINGS = ("last", "max", "mean", "attention", "max_mean")
TOLERANCE = 1e-4


def opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("directions", (1, 2))
@pytest.mark.parametrize("layers", (1, 2, 3))
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_encoder_equals_mxnet(cell: str, layers: int, directions: int, pooling: str) -> None:
    deep = {"layer_norm": layers == 3, "residual": layers > 1}
    config = config_of(cell=cell, layers=layers, directions=directions, pooling=pooling, **deep)
    network, arrays = random_network(config, seed=layers)
    session = opened(matcher.encoder(config, arrays, "document"))
    rng = np.random.default_rng(5)
    for count, longest, padded_to in ((1, 1, 1), (7, 9, 9), (5, 4, 11)):
        ids, lengths = random_texts(rng, count, longest, padded_to)
        wanted = represent(network, "document", ids, lengths).vectors.asnumpy()
        (found,) = session.run(None, {"ids": ids, "lengths": lengths})
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
        assert np.abs(wanted).mean() > 100 * TOLERANCE  # so that the tolerance tells something


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell: str) -> None:
    config = config_of(cell=cell, layers=2)
    _, arrays = random_network(config)
    session = opened(matcher.encoder(config, arrays, "query"))
    ids, lengths = random_texts(np.random.default_rng(1), 6, 5, 5)
    (plain,) = session.run(None, {"ids": ids, "lengths": lengths})
    (padded,) = session.run(None, {"ids": np.pad(ids, ((0, 0), (0, 9)), constant_values=7), "lengths": lengths})
    np.testing.assert_allclose(padded, plain, atol=1e-6)


def test_separate_towers_have_a_graph_each() -> None:
    config = config_of(towers="separate")
    network, arrays = random_network(config)
    ids, lengths = random_texts(np.random.default_rng(2), 4, 6, 6)
    found = {}
    for side in ("query", "document"):
        session = opened(matcher.encoder(config, arrays, side))
        (found[side],) = session.run(None, {"ids": ids, "lengths": lengths})
        np.testing.assert_allclose(
            found[side], represent(network, side, ids, lengths).vectors.asnumpy(), atol=TOLERANCE
        )
    assert np.abs(found["query"] - found["document"]).max() > 0.01


HEADS = ("cosine", "dot", "bilinear", "mlp", "late_interaction", "cross_attention")
LOSSES = {
    "ranking": None,
    "softmax": {"kind": "pointwise", "grades": 3},
    "ordinal": {"kind": "pointwise", "grades": 4, "link": "ordinal"},
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_matcher_and_numpy_heads_equal_mxnet(head: str, loss: str) -> None:
    """Three ways to the same scores: MXNet, the whole matcher's graph, and representations scored in numpy."""
    settings = LOSSES[loss]
    config = config_of(settings, head=head, towers="separate" if head == "mlp" else "shared")
    network, arrays = random_network(config, seed=3)
    if head == "cross_attention":  # of three layers more, whose large logits would make all grades sure
        arrays = randomise(network, 3, 0.4)
    rng = np.random.default_rng(4)
    sides = {"query": random_texts(rng, 6, 5, 5), "document": random_texts(rng, 6, 9, 12)}
    query, document = (represent(network, side, *texts) for side, texts in sides.items())
    feeds = {f"{s}_{name}": array for s, texts in sides.items() for name, array in zip(("ids", "lengths"), texts)}
    session = opened(matcher.matcher(config, arrays))
    found = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))
    scorer, encoded = Scorer(config, arrays), [_encoded(r, s[1]) for r, s in zip((query, document), sides.values())]
    if settings is None:
        wanted = network.score_pairs(query, document).asnumpy()
        np.testing.assert_allclose(scorer.score_all(*encoded), network.score_all(query, document).asnumpy(), atol=1e-4)
    else:
        logits = network.pair_outputs(query, document).asnumpy()
        chances = grade_probabilities(logits, config.train.loss.link)
        assert chances.shape == (6, config.train.loss.grades)
        wanted = chances @ np.arange(config.train.loss.grades)
        np.testing.assert_allclose(found["probabilities"], chances, atol=TOLERANCE)
        np.testing.assert_allclose(scorer.grades(*encoded), chances, atol=TOLERANCE)
        np.testing.assert_allclose(np.diag(scorer.score_all(*encoded)), wanted, atol=TOLERANCE)
    np.testing.assert_allclose(found["score"], wanted, atol=TOLERANCE)
    np.testing.assert_allclose(scorer.score_pairs(*encoded), wanted, atol=TOLERANCE)
    assert np.ptp(wanted) > 10 * TOLERANCE


def _encoded(representation: object, lengths: np.ndarray) -> Encoded:
    """MXNet's representation without its padding."""
    vectors, weights = (array.asnumpy() for array in representation)  # type: ignore[attr-defined]
    if vectors.ndim == 2:
        return Encoded(vectors)
    there = np.arange(vectors.shape[1]) < lengths[:, None]
    return Encoded(vectors[there], weights[there], np.concatenate([[0], np.cumsum(lengths)]))


def test_eight_bits_are_near_and_smaller() -> None:
    config = config_of(layers=2, embedding=32, hidden=32, head="dot")
    _, arrays = random_network(config)
    arrays = {name: array / 3 for name, array in arrays.items()}
    plain = matcher.encoder(config, arrays, "document")
    small = eight_bits.quantised(plain)
    assert [node.op_type for node in small.graph.node].count("DynamicQuantizeLSTM") == 2
    assert len(small.SerializeToString()) < 0.5 * len(plain.SerializeToString())
    ids, lengths = random_texts(np.random.default_rng(6), 20, 9, 9)
    (wanted,) = opened(plain).run(None, {"ids": ids, "lengths": lengths})
    (found,) = opened(small).run(None, {"ids": ids, "lengths": lengths})
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(wanted).mean()
    assert np.abs(found - wanted).max() > 0


def test_shared_towers_are_quantised_once() -> None:
    config = config_of()
    _, arrays = random_network(config)
    small = eight_bits.quantised(matcher.matcher(config, arrays))
    names = [tensor.name for tensor in small.graph.initializer]
    assert len(names) == len(set(names))
    opened(small)


def test_files_pass_the_checker(tmp_path: Path) -> None:
    config = config_of(head="late_interaction")
    _, arrays = random_network(config)
    path = tmp_path / "matcher.onnx"
    onnx.save(matcher.matcher(config, arrays), str(path))
    onnx.checker.check_model(str(path), full_check=True)
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
              for value in onnx.load(str(path)).graph.input}  # fmt: skip
    assert shapes["query_ids"] == ["N", "Tq"]
    assert shapes["document_ids"] == ["N", "Td"]
