"""A query and a document to a score."""

import math
from typing import Any

from pipeline.config.losses import GradedLoss, RankingLoss, named
from pipeline.config.memory import MAX_SCORES, Sizes, padded_tokens, part_of
from pipeline.config.mining import ranking_model
from pipeline.config.task_spec import Metric, OnnxSpec, TaskSpec
from pipeline.core.record_schema import Field as Text

GRADED_METRICS = ("accuracy", "macro_f1", "auc")
_COLUMNS = {
    "query": ("query", "question", "title", "q", "search", "keyword", "sentence1", "text1"),
    "document": ("document", "answer", "passage", "text", "body", "content", "doc", "response", "sentence2", "text2"),
    "relevance": ("relevance", "label", "score", "grade", "relevant", "rating", "target", "clicked", "is_duplicate"),
}
RANKING_CUTS = (("mrr", 10), ("map", None), ("ndcg", 10), ("recall", 1), ("recall", 10), ("recall", 100))


def ranking_metrics(depth: int) -> tuple[str, ...]:
    """What is measured of rankings that keep so many documents per query: nothing deeper, and map to that depth."""
    return tuple(f"{name}@{cut or depth}" for name, cut in RANKING_CUTS if (cut or depth) <= depth)


def _metrics(config: Any) -> tuple[Metric, ...]:
    evaluate = config.evaluate
    ranking = ranking_metrics(evaluate.depth) if "ranking" in evaluate.kinds else ()
    graded = GRADED_METRICS if "graded" in evaluate.kinds else ()
    return tuple(Metric(name) for name in ranking + graded)


def _check(config: Any) -> None:
    train, loss = config.train, config.train.loss
    most = config.model.scored_by.most_pairs
    if most is not None and not loss.graded and train.max_pairs_per_update > most:
        raise ValueError(
            f"model.head={config.model.head} scores each query with each document of an update: "
            f"keep train.max_pairs_per_update at {most} or less"
        )
    if train.sure_precision is not None and "ranking" not in config.evaluate.kinds:
        raise ValueError(
            f"train.sure_precision={train.sure_precision} is of a query's first document: have ranking among "
            "evaluate.kinds, or leave it out"
        )
    if train.swap_share:
        _check_swaps(config)
    if loss.graded:
        _check_grades(config)
    mine = config.mine
    if mine.by and (loss.graded or not loss.listed_negatives):
        raise ValueError(
            f"what mine.by={list(mine.by)} finds is drawn by train.loss.listed_negatives={loss.listed_negatives} of a "
            f"ranking loss ({named(RankingLoss)}), and train.loss.kind={loss.kind}: set both"
        )
    if "model" in mine.by and not ranking_model(config):
        raise ValueError("mine.by=model needs a trained folder: set mine.model or train.start_from")
    if mine.veto is not None and not config.teach.embeds:
        raise ValueError(
            f"mine.veto={mine.veto} is by teach.vectors or teach.onnx, and there is none: set one, or mine.veto=null"
        )
    if config.teach.scores and loss.graded:
        raise ValueError(
            f"teach.scores compares a query's documents, and train.loss.kind={loss.kind} learns each pair's grade: use "
            f"a ranking loss (train.loss.kind {named(RankingLoss)}), or teach.vectors"
        )
    _check_judging(config)


def _check_judging(config: Any) -> None:
    loss = config.train.loss
    if config.rerank.model and "ranking" not in config.evaluate.kinds:
        raise ValueError("rerank.model scores a ranking's documents anew, and evaluate.kinds has no ranking: add it")
    if config.evaluate.fusion != "mix" and "ranking" not in config.evaluate.kinds:
        raise ValueError(
            f"evaluate.fusion={config.evaluate.fusion} ranks, and evaluate.kinds has no ranking: add it or set mix"
        )
    if "graded" in config.evaluate.kinds and not loss.graded:
        raise ValueError(
            f"evaluate.kinds graded needs train.loss.kind={named(GradedLoss)}, which alone predicts grades"
        )
    if loss.graded and "ranking" in config.evaluate.kinds and config.evaluate.candidates == "collection":
        raise ValueError(
            f"a {loss.kind} loss ranks listed candidates only: set evaluate.candidates=listed, or "
            f"evaluate.kinds=[graded], or a ranking loss (train.loss.kind {named(RankingLoss)})"
        )


def _check_grades(config: Any) -> None:
    pairs, passages, loss = config.pretrain.pairs, config.tokenize.max_passages, config.train.loss
    for given, what in (
        (pairs, f"pretrain.pairs={pairs} makes pairs without grades"),
        (passages > 1, f"tokenize.max_passages={passages} takes the best score of a document's passages"),
    ):
        if given:
            raise ValueError(
                f"{what}, and train.loss.kind={loss.kind} learns grades: use a ranking loss (train.loss.kind "
                f"{named(RankingLoss)}), or leave it out"
            )


def _check_swaps(config: Any) -> None:
    setting, limits = f"train.swap_share={config.train.swap_share}", config.tokenize.max_tokens
    if not config.train.loss.graded:
        raise ValueError(
            f"{setting} is for grades of pairs, and train.loss.kind={config.train.loss.kind} ranks documents: use "
            f"train.loss.kind={named(GradedLoss)}, or leave it out"
        )
    if config.teach.who:
        raise ValueError(f"{setting} cannot be had with a teacher, which knows each text in its own place: keep one")
    if limits["query"] != limits["document"]:
        raise ValueError(
            f"{setting} lets each text stand in the other's place: set tokenize.max_tokens of query "
            f"({limits['query']}) and document ({limits['document']}) alike"
        )


def _same_by(config: Any) -> tuple[str, ...]:
    """Documents are shared by design: the query, or the pair where only grades are measured."""
    return ("query",) if "ranking" in config.evaluate.kinds else ("query", "document")


def _sizes(config: Any, vocabulary: int) -> Sizes:
    """Documents of all workers and their gradients, and the scores of a part's queries with them."""
    pairs, tokens = config.train.max_pairs_per_update, padded_tokens(config)
    if config.teach.embeds:
        tokens += config.teach.further_per_update * config.tokenize.limit("document")
    head, width, setting = config.model.scored_by, config.model.vector_width, "train.max_pairs_per_update"
    query, document = (config.tokenize.limit(side) for side in ("query", "document"))
    of = lambda count, steps: (count, steps, width) if head.by_token else (count, width)
    documents = pairs * (1 + config.train.loss.listed_negatives)
    each = head.numbers(of(pairs, query), of(documents, document))
    if config.train.loss.graded:
        longest = min(pairs, padded_tokens(config) // (query + document))
        return Sizes(tokens, ((4 * part_of(config, longest) * each, setting),))
    scores = part_of(config, pairs) * documents * each
    return Sizes(
        tokens + (documents - pairs) * document,
        ((5 * math.prod(of(documents, document)), setting), (4 * min(scores, MAX_SCORES), setting)),
    )


TASK = TaskSpec(
    name="matching",
    fields={"query": Text(64), "document": Text(256)},
    task="pipeline.tasks.matching:Matching",
    metrics=_metrics,
    record="pair",
    same_by=_same_by,
    inputs=("query", "document"),
    columns=_COLUMNS,
    # measured better on the sets of questions, abstracts and manuals
    defaults={"head": "late_interaction", "hidden": 96},
    sizes=_sizes,
    check=_check,
    check_split="pipeline.orchestration.split_checks:matching",
    pooled=True,
    relevance=True,
    teachable=True,
    resegments=True,
    sure=True,
    heads=True,
    mxnet="pipeline.serving.predict.mxnet_encoder:open_predictor",
    onnx=OnnxSpec(
        graphs="pipeline.serving.onnx.matcher:encoders",
        exported="pipeline.serving.onnx.matcher:matchers",
        judge="pipeline.serving.export.validation:matching",
        open="pipeline.serving.predict.onnx_matching:open_predictor",
        card=(
            "| `encoder.onnx`, or `query_encoder.onnx` and `document_encoder.onnx` | ids (N, T) int32, 0 on padding, "
            "and lengths (N,) int32; vectors (N, P), or for late interaction (N, T, P) and weights (N, T) |",
            "| `matcher.onnx` | query_ids, query_lengths, document_ids, document_lengths; score (N,), and "
            "probabilities (N, G) of a model trained pointwise |",
        ),
        example="pipeline.serving.predict.onnx_matching:example",
    ),
)
