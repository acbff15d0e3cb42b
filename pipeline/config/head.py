"""What a head is: how a query and a document become a score. See docs/tasks.md, "Adding a head".

A head writes its formula once, over `m`, which is MXNet's arithmetic in training and NumPy's or ONNX's where a model is
used (`Maths`). So a formula imports none of them, and a head is one file.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pipeline.config.base import Settings
from pipeline.config.plugins import INTERFACE

FAR_BELOW = -1e30  # loses against any real value in a maximum or a softmax
Index = Literal["vectors", "tokens", "candidates", "none"]


class Texts(NamedTuple):
    """N texts as an encoder gives them to a head."""

    vectors: Any  # (N, P); of a head that compares tokens (N, T, P)
    weights: Any  # (N, T) a token's importance, 0 on padding; no use to other heads


class Dense(NamedTuple):
    """A linear layer along the last axis: NAME.weight (units, inputs), NAME.bias (units,)."""

    units: int
    inputs: int
    bias: bool = True


class Matrix(NamedTuple):
    """A learned array; the identity is square."""

    shape: tuple[int, ...]
    start: Literal["identity", "xavier", "zeros", "ones"] = "xavier"


Learned = Mapping[str, Dense | Matrix]


class Maths(Protocol):
    """Arithmetic over values, which also know `+ - * /` with each other, broadcast, and with numbers."""

    @property
    def options(self) -> Any:
        """The head's own settings; None of a head without."""

    def array(self, name: str) -> Any:
        """A learned array."""

    def dense(self, x: Any, name: str) -> Any:
        """A learned linear layer along the last axis."""

    def output(self, features: Any) -> Any:
        """(N, F) features to (N, outputs): the linear layer above every head that has one."""

    def concat(self, *values: Any) -> Any:
        """Along the last axis."""

    def stack(self, *values: Any) -> Any:
        """(N,) each to (N, number of values)."""

    def first(self, x: Any) -> Any:
        """(N, F) to (N,): the first column."""

    def width(self, x: Any) -> int:
        """The length of the last axis."""

    def since(self, x: Any, begin: int) -> Any:
        """From entry `begin` of the last axis on."""

    def sum(self, x: Any, axis: int, keep: bool = False) -> Any: ...

    def largest(self, x: Any) -> Any:
        """The maximum over the last axis, whose gradient goes to one of equal maxima."""

    def unit(self, x: Any) -> Any:
        """Vectors of length 1 along the last axis; zeros stay zeros."""

    def absolute(self, x: Any) -> Any: ...

    def root(self, x: Any) -> Any:
        """The square root, of at least 1e-12."""

    def tanh(self, x: Any) -> Any: ...

    def relu(self, x: Any) -> Any: ...

    def sigmoid(self, x: Any) -> Any: ...

    def softmax(self, x: Any) -> Any:
        """Over the last axis."""

    def times(self, x: Any, matrix: Any) -> Any:
        """(N, P) and (P, Q) to (N, Q)."""

    def products(self, x: Any, y: Any) -> Any:
        """(N, T, P) and (N, S, P) to (N, T, S): every token of x with every one of y."""

    def turned(self, x: Any) -> Any:
        """(N, T, S) to (N, S, T)."""

    def expanded(self, x: Any, axis: int) -> Any:
        """With one more axis, of length 1."""

    def neighbours(self, x: Any) -> Any:
        """(N, T, P) to (N, T, 3 P): the token before, a token, and the one after it; zeros beyond both ends."""

    def dropped(self, x: Any) -> Any:
        """With dropout while a graded loss trains, whose pairs are independent of each other; else x itself."""

    def zero(self, x: Any) -> Any:
        """1 where x is 0, else 0."""


class EveryMaths(Maths, Protocol):
    """What scores every query with every document; an ONNX graph scores pairs and has it not."""

    def every_dot(self, query: Any, document: Any) -> Any:
        """(Nq, P) and (Nd, P) to (Nq, Nd)."""

    def every_best(self, query: Any, document: Any) -> Any:
        """Texts by token to (Nq, Nd): the mean over a query's tokens, by importance, of the best product among a
        document's."""

    def every_pair(self, head: Any, query: Any, document: Any) -> Any:
        """Texts to (Nq, Nd): `head.pairs` of every query with every document."""


class Head:
    """A head: its name, what it needs, and its formula. An entry point of `duplet.heads` names an instance.

    Attributes:
        name: in `model.head`, and of its section of options within `model`; a Python name.
        summary: a sentence for the list of settings, without its point.
        by_token: whether it compares vectors of all tokens; else one vector of each text, as the pooling makes it.
        index: how `duplet index` finds documents. vectors: the score is a dot product (`DotHead`). tokens: it is
            `EveryMaths.every_best`. candidates: BM25 chooses the documents to score. none: not at all, an
            index is refused.
        unit: whether vectors may be kept at length 1.
        learned: whether the score is the first number that the output layer makes of the features.
        most_pairs: a limit of train.max_pairs_per_update for losses that score each query with each document.
        options: the model of its section, whose defaults must all be given.
        report: "module:name", (evaluation folder) -> (title, table of texts with its heads) or None: a section of the
            run's page.
        interface: what the head was written for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    by_token: ClassVar[bool] = False
    index: ClassVar[Index] = "candidates"
    unit: ClassVar[bool] = False
    learned: ClassVar[bool] = True
    most_pairs: ClassVar[int | None] = None
    options: ClassVar[type[Settings] | None] = None
    report: ClassVar[str | None] = None
    interface: ClassVar[int] = INTERFACE

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        """What it learns, by name.

        Args:
            width: P, the numbers of a vector.
            graded: whether a pointwise loss takes `features`.
        """
        return {}

    def size(self, width: int, options: Any) -> int:
        """F, the numbers that `features` gives for a pair."""
        return 1

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        """(N, F): what it knows of query i and document i; the output layer makes grades of it."""
        raise NotImplementedError

    def pairs(self, m: Maths, query: Texts, document: Texts) -> Any:
        """(N,) scores of query i and document i; larger is a better match."""
        features = self.features(m, query, document)
        return m.first(m.output(features) if self.learned else features)

    def all(self, m: EveryMaths, query: Any, document: Any) -> Any:
        """(Nq, Nd) scores, in which `pairs` are the diagonal; of Texts, or in NumPy of scoring.Encoded."""
        return m.every_pair(self, query, document)

    @property
    def map_label(self) -> str:
        """What the page of a run shows of a pair, token by token."""
        if self.index == "tokens":
            return "similarity of tokens; ringed what makes the score"
        return "similarity of tokens" if self.by_token else "cosine of the encoder's states"

    def numbers(self, query: tuple[int, ...], document: tuple[int, ...]) -> int:
        """How many numbers `all` holds for one score, given the shapes of both sides' vectors."""
        width = query[-1]
        if not self.by_token:
            return 8 * width
        return 8 * (width * (query[1] + document[1]) + query[1] * document[1])


class DotHead(Head):
    """A head whose score is the dot product of what `mapped` makes of both vectors."""

    index = "vectors"
    learned = False

    def mapped(self, m: Maths, query: Any, document: Any) -> tuple[Any, Any]:
        """(N, P) vectors of both sides, whose dot product is the score."""
        return query, document

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        q, d = self.mapped(m, query.vectors, document.vectors)
        return m.sum(q * d, 1, keep=True)

    def all(self, m: EveryMaths, query: Any, document: Any) -> Any:
        return m.every_dot(*self.mapped(m, query.vectors, document.vectors))

    def numbers(self, query: tuple[int, ...], document: tuple[int, ...]) -> int:
        return 1
