"""Scores of pairs: alike however they are asked for, free of padding, in range, and trained in all their parts."""

import itertools
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config import LossConfig, ModelConfig
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.models.parameters import parameters_of
from pipeline.tasks.matching_evidence import _pooled_share

HEADS = ("cosine", "dot", "bilinear", "mlp", "late_interaction", "cross_attention")
TOWERS = ("shared", "separate")
POOLINGS = ("last", "max", "mean", "attention", "max_mean")
VOCABULARY = 40
LENGTHS: dict[str, tuple[int, ...]] = {"query": (3, 9, 1, 5), "document": (14, 2, 7, 1)}
Texts = dict[str, tuple[nd.NDArray, nd.NDArray]]


def build(head: str, towers: str, outputs: int = 0, **options: Any) -> Matcher:
    mx.random.seed(5)
    np.random.seed(5)
    sizes = {"embedding": 6, "hidden": 5, "dropout": 0.0, **options}
    network = Matcher(ModelConfig(head=head, towers=towers, **sizes), VOCABULARY, outputs)
    network.initialize()
    for name, parameter in parameters_of(network).items():
        if name.endswith(("bias", "form")):  # they start at values that hide mistakes: 0 and the identity
            parameter.set_data(parameter.data() + nd.random.normal(0, 0.4, parameter.shape))
    network.embedding.set_data(nd.random.normal(0, 1, network.embedding.shape))
    return network


def texts_of(lengths: dict[str, tuple[int, ...]], extra: int = 0) -> Texts:
    """Per side (T, N) ids with 0 on padding, and (N,) lengths; the ids of a text do not depend on `extra` padding."""
    found = {}
    for number, side in enumerate(SIDES):
        ids = np.zeros((max(lengths[side]) + extra, len(lengths[side])), np.int32)
        for i, length in enumerate(lengths[side]):
            ids[:length, i] = np.random.default_rng([number, i]).integers(1, VOCABULARY, length)
        found[side] = nd.array(ids, dtype="int32"), nd.array(lengths[side], dtype="int32")
    return found


def represent(network: Matcher, texts: Texts) -> tuple[Representation, Representation]:
    table = network.embedding.data()
    query, document = (network.represent(side, table, *texts[side]) for side in SIDES)
    return query, document


def one(texts: Texts, i: int) -> Texts:
    """The i-th pair by itself, without padding."""
    lengths = {side: int(size[i].asscalar()) for side, (_, size) in texts.items()}
    return {side: (ids[: lengths[side], i : i + 1], size[i : i + 1]) for side, (ids, size) in texts.items()}


@pytest.mark.parametrize(("head", "towers"), itertools.product(HEADS, TOWERS))
def test_scores_of_pairs_are_the_diagonal_of_all_scores(head: str, towers: str) -> None:
    network = build(head, towers)
    query, document = represent(network, texts_of(LENGTHS))
    everything = network.score_all(query, document).asnumpy()
    assert everything.shape == (4, 4)
    pairs = network.score_pairs(query, document).asnumpy()
    assert pairs.shape == (4,)
    np.testing.assert_allclose(pairs, np.diag(everything), atol=1e-5)
    assert np.std(everything) > 1e-4  # scores that are all the same would pass
    # off the diagonal too: documents moved on by one against the same queries
    moved = Representation(*(nd.take(array, nd.array([1, 2, 3, 0])) for array in document))
    np.testing.assert_allclose(
        network.score_pairs(query, moved).asnumpy(), everything[np.arange(4), [1, 2, 3, 0]], atol=1e-5
    )


@pytest.mark.parametrize("head", HEADS)
def test_numbers_of_queries_and_documents_may_differ(head: str) -> None:
    network = build(head, "separate")
    query, document = represent(network, texts_of({"query": (3, 9), "document": (14, 2, 7, 1, 4)}))
    everything = network.score_all(query, document).asnumpy()
    assert everything.shape == (2, 5)
    for i, j in itertools.product(range(2), range(5)):
        pair = (Representation(*(array[k : k + 1] for array in side)) for side, k in ((query, i), (document, j)))
        np.testing.assert_allclose(network.score_pairs(*pair).asscalar(), everything[i, j], atol=1e-5)


@pytest.mark.parametrize(("head", "towers"), itertools.product(HEADS, TOWERS))
def test_scores_do_not_depend_on_padding(head: str, towers: str) -> None:
    network = build(head, towers, outputs=3)
    texts = texts_of(LENGTHS)
    query, document = represent(network, texts)
    scores = network.score_pairs(query, document).asnumpy()
    everything, logits = network.score_all(query, document), network.pair_outputs(query, document).asnumpy()
    longer = represent(network, texts_of(LENGTHS, extra=6))
    np.testing.assert_allclose(network.score_all(*longer).asnumpy(), everything.asnumpy(), atol=1e-5)
    np.testing.assert_allclose(network.pair_outputs(*longer).asnumpy(), logits, atol=1e-5)
    for i in range(4):
        alone = represent(network, one(texts, i))
        for together, single in zip((query, document), alone):
            steps = single.weights.shape[1]
            wanted = together.vectors[i, :steps] if network.by_token else together.vectors[i]
            np.testing.assert_allclose(single.vectors[0].asnumpy(), wanted.asnumpy(), atol=1e-5)
            np.testing.assert_allclose(single.weights[0].asnumpy(), together.weights[i, :steps].asnumpy(), atol=1e-6)
            assert (together.weights[i].asnumpy()[steps:] == 0).all()
        np.testing.assert_allclose(network.score_pairs(*alone).asscalar(), scores[i], atol=1e-5)
        np.testing.assert_allclose(network.score_all(*alone).asscalar(), scores[i], atol=1e-5)
        np.testing.assert_allclose(network.pair_outputs(*alone).asnumpy()[0], logits[i], atol=1e-5)


@pytest.mark.parametrize(("head", "scale"), itertools.product(("cosine", "late_interaction"), (0.0, 1e-3, 1.0, 1e3)))
def test_cosine_and_late_interaction_lie_between_minus_1_and_1(head: str, scale: float) -> None:
    network = build(head, "shared")
    network.embedding.set_data(network.embedding.data() * scale)
    query, document = represent(network, texts_of(LENGTHS))
    for scores in (network.score_all(query, document), network.score_pairs(query, document)):
        assert np.isfinite(scores.asnumpy()).all()
        assert np.abs(scores.asnumpy()).max() <= 1 + 1e-5
    same = network.score_pairs(query, query).asnumpy()
    # a text matches itself as well as can be; an embedding of 0 has no direction, and is half of late interaction
    np.testing.assert_allclose(same, 0.5 if head == "late_interaction" and scale == 0 else 1, atol=1e-4)


def test_vectors_of_late_interaction_have_length_1_and_weights_lie_between_0_and_1() -> None:
    query, _ = represent(build("late_interaction", "shared"), texts_of(LENGTHS))
    assert query.vectors.shape == (4, 9, 12)  # a projected state and an embedding
    np.testing.assert_allclose(np.linalg.norm(query.vectors.asnumpy(), axis=2), 1, atol=1e-4)
    weights = query.weights.asnumpy()
    for i, length in enumerate(LENGTHS["query"]):
        assert ((weights[i, :length] > 0) & (weights[i, :length] < 1)).all()


def test_late_interaction_equals_its_formula() -> None:
    """The weighted mean, over a query's tokens, of each one's best cosine with any of the document's."""
    network = build("late_interaction", "separate")
    query, document = represent(network, texts_of(LENGTHS))
    (q, v), (d, _) = ((vectors.asnumpy(), weights.asnumpy()) for vectors, weights in (query, document))
    got = network.score_all(query, document).asnumpy()
    for i, j in itertools.product(range(4), range(4)):
        n, m = LENGTHS["query"][i], LENGTHS["document"][j]
        best = (q[i, :n] @ d[j, :m].T).max(axis=1)
        np.testing.assert_allclose(got[i, j], (best * v[i, :n]).sum() / v[i, :n].sum(), atol=1e-5)


def test_heads_equal_their_formulas() -> None:
    for head in ("cosine", "dot", "bilinear"):
        network = build(head, "separate")
        query, document = represent(network, texts_of(LENGTHS))
        q, d = query.vectors.asnumpy(), document.vectors.asnumpy()
        if head == "cosine":
            q, d = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, d))
        if head == "bilinear":
            q = q @ network.head.form.data().asnumpy()
        np.testing.assert_allclose(network.score_all(query, document).asnumpy(), q @ d.T, atol=1e-5, err_msg=head)


def test_bilinear_starts_as_a_dot_product() -> None:
    network = Matcher(ModelConfig(head="bilinear", embedding=4, hidden=3), VOCABULARY)
    network.initialize()
    np.testing.assert_array_equal(network.head.form.data().asnumpy(), np.eye(6))


@pytest.mark.parametrize(("head", "outputs"), itertools.product(HEADS, (1, 4)))
def test_pair_outputs_have_a_logit_per_output(head: str, outputs: int) -> None:
    network = build(head, "shared", outputs)
    logits = network.pair_outputs(*represent(network, texts_of(LENGTHS)))
    assert logits.shape == (4, outputs)
    assert np.std(logits.asnumpy()[:, 0]) > 1e-5
    # mlp: hidden units of both directions; late interaction: four scores, and a hidden unit per four of a token's
    # cross attention: a hidden unit per two
    features = {"mlp": 10, "late_interaction": 4 + 12 // 4, "cross_attention": 12 // 2}.get(head, 1)
    assert network.output.weight.shape == (outputs, features)


def test_only_what_is_learned_needs_an_output_without_a_graded_loss() -> None:
    for head in HEADS:
        assert hasattr(build(head, "shared"), "output") == (head in ("mlp", "cross_attention"))


@pytest.mark.parametrize("head", HEADS)
def test_shared_towers_are_one_and_separate_ones_are_two(head: str) -> None:
    shared, separate = build(head, "shared"), build(head, "separate")
    assert shared.query_tower is shared.document_tower
    assert separate.query_tower is not separate.document_tower
    ids = texts_of(LENGTHS)["query"]
    for network, alike in ((shared, True), (separate, False)):
        query, document = (network.represent(side, network.embedding.data(), *ids) for side in SIDES)
        assert np.array_equal(query.vectors.asnumpy(), document.vectors.asnumpy()) == alike
    counts = [sum(name.startswith(("query", "document")) for name in parameters_of(n)) for n in (shared, separate)]
    assert counts[1] == 2 * counts[0] > 0
    assert sum(name == "embedding" for name in parameters_of(separate)) == 1


def test_rows_of_an_update_score_like_the_whole_table() -> None:
    network, texts = build("dot", "shared"), texts_of(LENGTHS)
    tokens = np.unique(np.concatenate([ids.asnumpy().ravel() for ids, _ in texts.values()]))
    assert len(tokens) < VOCABULARY
    rows = nd.take(network.embedding.data(), nd.array(tokens, dtype="int32"))
    parts = [
        network.represent(side, rows, nd.array(np.searchsorted(tokens, ids.asnumpy()), dtype="int32"), size)
        for side, (ids, size) in texts.items()
    ]
    np.testing.assert_array_equal(
        network.score_pairs(*parts).asnumpy(), network.score_pairs(*represent(network, texts)).asnumpy()
    )


def gradients_of(network: Matcher, loss: str) -> dict[str, np.ndarray]:
    """Gradients of all dense parameters and of the embedding rows, after one pass through a loss."""
    texts = texts_of(LENGTHS)
    table = network.embedding.data().copy()
    table.attach_grad()
    with autograd.record():
        query, document = (network.represent(side, table, *texts[side]) for side in SIDES)
        if loss in ("softmax", "ordinal"):
            logits, settings = network.pair_outputs(query, document), LossConfig(kind="pointwise", link=loss)
            value = settings.formula.values(nd, logits, nd.array([0, 2, 1, 0]), settings).mean()
        else:
            scores, own = network.score_all(query, document), nd.arange(4)
            settings = LossConfig(kind=loss, margin=5.0, temperature=0.5)
            negatives = nd.array([[1, 2], [0, 3], [3, 1], [2, 0]])
            value = settings.formula.value(nd, scores, own, nd.zeros((4, 4)), negatives, settings)
    value.backward()
    dense = {name: p.grad().asnumpy() for name, p in parameters_of(network).items() if p.grad_req != "null"}
    return {**dense, "embedding": table.grad.asnumpy()}


# A direction whose gradient is 0 by the formula, not by mistake: see the test below.
UNSEEN = {("late_interaction", "separate"): "document_tower.importance"}


@pytest.mark.parametrize(
    ("head", "towers", "loss"),
    itertools.product(HEADS, TOWERS, ("in_batch_softmax", "hinge", "softmax", "ordinal")),
)
def test_every_parameter_gets_a_gradient(head: str, towers: str, loss: str) -> None:
    outputs = {"softmax": 3, "ordinal": 2}.get(loss, 0)
    network = build(head, towers, outputs, layers=2, layer_norm=True, pooling="attention")
    found = gradients_of(network, loss)
    assert {"embedding", *(n for n, p in parameters_of(network).items() if p.grad_req != "null")} == set(found)
    dead = {name for name, gradient in found.items() if not np.abs(gradient).max() > 1e-9}
    assert all(np.isfinite(gradient).all() for gradient in found.values())
    # a ranking weighs the query's tokens alone, so a document tower of its own has no use for the importance layer
    unseen = UNSEEN.get((head, towers)) if outputs == 0 else None
    # what adds the same to every score of a row moves no difference between scores
    level = {"output.bias"} if outputs == 0 else set()
    assert {name for name in dead if not (unseen and name.startswith(unseen))} <= level


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_parameter_gets_a_gradient_with_each_pooling(pooling: str) -> None:
    found = gradients_of(build("cosine", "separate", pooling=pooling), "in_batch_softmax")
    assert {name for name, gradient in found.items() if not np.abs(gradient).max() > 1e-9} == set()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_weights_of_a_pooling_are_those_that_make_its_vector(pooling: str) -> None:
    """The report shows them; of attention alone, as nothing else is learned."""
    network = build("cosine", "shared", pooling=pooling, directions=1)
    tower = network.query_tower
    for parameter in tower.pooling.collect_params().values():
        parameter.set_data(nd.random.normal(0, 2, parameter.shape))  # large, or tanh is next to nothing
    states, lengths = nd.random.normal(0, 1, (7, 3, 5)), nd.array([7, 1, 4], dtype="int32")
    weights = tower.pooling.weights(states, lengths)
    if pooling != "attention":
        assert weights is None
        return
    assert weights.shape == (7, 3, 1) and (weights[4:, 2].asnumpy() == 0).all()
    vector = tower.pooling(states, lengths, None)
    np.testing.assert_allclose((states * weights).sum(axis=0).asnumpy(), vector.asnumpy(), atol=1e-6)
    array, project, query = states[:4, 2].asnumpy(), tower.pooling.project, tower.pooling.query
    scores = np.tanh(array @ project.weight.data().asnumpy().T + project.bias.data().asnumpy())
    powers = np.exp(scores @ query.weight.data().asnumpy()[0])
    np.testing.assert_allclose(weights[:4, 2, 0].asnumpy(), powers / powers.sum(), rtol=1e-4)
    assert _pooled_share(tower, states[:4, 2:], lengths[2:])[1] == pytest.approx(powers / powers.sum(), rel=1e-4)
