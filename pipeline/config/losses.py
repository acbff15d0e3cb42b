"""The losses of query-document pairs: Duplet's, and those that installed packages bring (entry points `duplet.losses`);
and their settings, the section `train.loss`.

A loss is computed in training alone, so its formula is given `nd`, which is `mxnet.nd`: a declaration loads no MXNet.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from pipeline.config.base import Positive, Settings
from pipeline.config.head import FAR_BELOW
from pipeline.config.plugins import INTERFACE, Table

Link = Literal["softmax", "ordinal"]
LINKS = get_args(Link)


class Loss:
    """A loss: a RankingLoss or a GradedLoss. An entry point of `duplet.losses` names an instance.

    Attributes:
        name: in `train.loss.kind`, and of its section of options within `train.loss`; a Python name.
        summary: a sentence for the list of settings, without its point.
        options: the model of its section, whose defaults must all be given.
        interface: what the loss was written for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[type[Settings] | None] = None
    interface: ClassVar[int] = INTERFACE


class RankingLoss(Loss):
    """Compares a query's own document with other documents of the update; learns from relevant pairs alone."""

    def drawn(self, options: Any) -> int:
        """K, how many documents are drawn for each query as its negatives; 0: all documents of the update are."""
        return 0

    def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
        """The loss, (1,): its mean over the queries, or over all negatives where these are drawn.

        Args:
            scores: (N, M) of each query with each document.
            own: (N,) the column of each query's own document.
            excluded: (N, M) 1 where a document must not count as a negative (it is relevant too, or the same text),
                else 0; None where none is, and where negatives are drawn, which are none of them.
            negatives: (N, K) columns, -1 where a query has fewer than K; None unless they are drawn.
            options: the loss's own settings; of a loss without, all of `train.loss`.
        """
        raise NotImplementedError


class GradedLoss(Loss):
    """Compares what a pair's logits say with its grade, pair by pair."""

    def link(self, options: Any) -> Link:
        """How logits become probabilities of G grades: as G classes, or as G - 1 log odds of a grade above g."""
        return "softmax"

    def values(self, nd: Any, logits: Any, grades: Any, options: Any) -> Any:
        """(N, G) or (N, G - 1) logits and (N,) grades 0 … G - 1 to (N,) losses; `options` as of a RankingLoss."""
        raise NotImplementedError


class InBatchSoftmax(RankingLoss):
    """Cross entropy of each query's own document against all documents of the update.

    A small temperature looks at the hardest negatives. Henderson et al., "Efficient natural language response
    suggestion", 2017, eq. 6; temperature as in Wu et al. 2018.
    """

    name = "in_batch_softmax"
    summary = "a query's document against all documents of the update"

    def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
        logits = scores / options.temperature
        if excluded is not None:
            logits = logits + excluded * FAR_BELOW
        return -nd.pick(nd.log_softmax(logits, axis=1), own, axis=1).mean().reshape(1)


class Hinge(RankingLoss):
    """max(0, margin - positive + negative) over queries and their drawn negatives.

    Joachims, "Optimizing search engines using clickthrough data", 2002; Hu et al. 2014, eq. 7.
    """

    name = "hinge"
    summary = "against some of them, by a margin"

    def drawn(self, options: Any) -> int:
        return int(options.negatives)

    def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
        positive = nd.pick(scores, own, axis=1).expand_dims(1)
        rows = nd.broadcast_like(nd.arange(scores.shape[0], ctx=scores.context).expand_dims(1), negatives)
        mask = negatives >= 0
        other = nd.gather_nd(scores, nd.stack(rows, nd.maximum(negatives, 0), axis=0))
        costs = nd.relu(options.margin - nd.broadcast_sub(positive, other)) * mask
        return (costs.sum() / nd.maximum(mask.sum(), 1)).reshape(1)


class Pointwise(GradedLoss):
    """softmax: cross entropy of the grades as classes. ordinal: the sum of the G-1 binary losses "is the grade above
    g?", of log odds g = 0 … G-2.

    Frank and Hall, "A simple approach to ordinal classification", 2001; Niu et al. 2016 for networks.
    """

    name = "pointwise"
    summary = "the grade of each pair"

    def link(self, options: Any) -> Link:
        link: Link = options.link
        return link

    def values(self, nd: Any, logits: Any, grades: Any, options: Any) -> Any:
        if options.link == "softmax":
            return -nd.pick(nd.log_softmax(logits, axis=1), grades, axis=1)
        thresholds = nd.arange(logits.shape[1], ctx=logits.context).expand_dims(0)
        above = nd.broadcast_greater(grades.expand_dims(1), thresholds)
        return (nd.relu(logits) - logits * above + nd.log1p(nd.exp(-nd.abs(logits)))).sum(axis=1)


OWN = (InBatchSoftmax(), Hinge(), Pointwise())


class LossConfig(Settings):
    """What training on query-document pairs minimizes; other tasks have one loss each and ignore this section."""

    kind: str = Field(
        default="in_batch_softmax",
        description=" ".join(f"{loss.name}: {loss.summary}." for loss in OWN),
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=0.1,
        description="in_batch_softmax: divides the scores. A smaller one looks more at the hardest negatives.",
    )
    negatives: Positive = Field(
        default=8, description="hinge: documents per query, drawn from the other pairs of the update."
    )
    margin: Annotated[float, Field(gt=0)] = Field(
        default=0.2, description="hinge: how far a query's document should score above each negative."
    )
    listed_negatives: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Maximum number of documents judged irrelevant for a query that join the update as its negatives, "
        "drawn anew in each epoch. pointwise ignores it.",
    )
    grades: Annotated[int, Field(ge=2)] = Field(
        default=2, description="pointwise: number of grades; relevance is then one of 0 … grades - 1."
    )
    link: Link = Field(
        default="softmax", description="pointwise: grades as classes (softmax) or in their order (ordinal)."
    )

    @property
    def formula(self) -> Any:
        """The RankingLoss or GradedLoss. Raises InputError where no installed package brings it."""
        return LOSSES.named(self.kind)

    @property
    def formula_options(self) -> Any:
        """The loss's own settings; of a loss without, this section."""
        return getattr(self, self.kind, self) if self.formula.options else self

    @property
    def graded(self) -> bool:
        """Whether it learns grades, from all pairs, and not the order of documents, from the relevant ones."""
        return isinstance(self.formula, GradedLoss)

    @property
    def grade_link(self) -> str:
        """How logits become probabilities of the grades: softmax, ordinal; "" of a loss without grades."""
        if not self.graded:
            return ""
        link: str = self.formula.link(self.formula_options)
        if link not in LINKS:
            raise LOSSES.fault(self.kind, f"has the link {link!r}, which is neither {' nor '.join(LINKS)}")
        return link

    @property
    def outputs(self) -> int:
        """Logits of a pair; 0 of a loss without grades."""
        return self.grades - (self.grade_link == "ordinal") if self.graded else 0

    @property
    def drawn(self) -> int:
        """How many negatives are drawn for each query; 0: all documents of the update are."""
        drawn = 0 if self.graded else self.formula.drawn(self.formula_options)
        if not isinstance(drawn, int) or drawn < 0:
            raise LOSSES.fault(self.kind, f"draws {drawn!r} negatives, which is not a count")
        return drawn

    def checked(self, value: Any, shape: tuple[int, ...]) -> Any:
        """What the loss gave. Raises InputError where it has another shape, which would be broadcast."""
        if value.shape != shape:
            raise LOSSES.fault(self.kind, f"gives an array of shape {value.shape} and not {shape}")
        return value


def _problem(loss: Loss) -> str | None:
    """What is wrong with a loss that a package brings."""
    if not getattr(loss, "summary", ""):
        return "has no summary"
    if isinstance(loss, RankingLoss):
        return "has no formula" if type(loss).value is RankingLoss.value else None
    if isinstance(loss, GradedLoss):
        return "has no formula" if type(loss).values is GradedLoss.values else None
    return "is neither a RankingLoss nor a GradedLoss"


LOSSES: Table[Loss] = Table(
    "loss", Loss, {loss.name: loss for loss in OWN}, _problem, {*LossConfig.model_fields, *dir(LossConfig)}
)


def named(kind: type[Loss]) -> str:
    """The losses of a kind by name, for sentences.

    >>> named(RankingLoss)
    'in_batch_softmax or hinge'
    """
    return " or ".join(name for name, loss in LOSSES.all.items() if isinstance(loss, kind))
