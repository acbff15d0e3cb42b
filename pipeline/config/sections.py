"""The sections of a configuration, one model each: every setting with its default, its bounds and what it means.

The descriptions are what `duplet config explain`, `duplet config schema` and docs/settings.md show. They say the unit,
what null means and what a larger or smaller value does; values that are allowed and the default are not repeated.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Filled, OwnPlace, Positive, Settings, Share
from pipeline.config.cells import CELLS, Cell
from pipeline.config.head import Head
from pipeline.config.heads import HEADS
from pipeline.config.losses import LossConfig
from pipeline.config.poolings import POOLINGS
from pipeline.config.sources import Source


# --- ingest -----------------------------------------------------------------------------------------------------------
class SplitShares(Settings):
    """How many groups (queries, by default) go to splits that the source does not have itself; train takes the rest."""

    valid: Share = Field(
        default=0.1, description="Share of the groups that go to valid, which chooses the best update."
    )
    test: Share = Field(
        default=0.1, description="Share of the groups that go to test, which is measured once, at the end."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None,
        description="Seed of the random numbers that divide the data into splits and make generated sources. null: "
        "seed. Set it to train with several seeds on the same splits, as `duplet run --seeds` does.",
    )


class IngestConfig(Settings):
    """How the source becomes records, splits and a quarantine of bad rows; see docs/data.md."""

    source: Source = Field(description="Where the data is and how it is read; its settings depend on format.")
    split: SplitShares = SplitShares()
    max_row_kb: Positive = Field(
        default=1024,
        description="Maximum size of a row, document or image, in KiB; a larger one goes to the quarantine.",
    )
    max_quarantined_share: Share = Field(
        default=0.01, description="Maximum share of bad rows of a kind; above it ingest ends with an error."
    )
    leaks: Literal["warn", "put_aside", "refuse"] = Field(
        default="warn",
        description="What happens to training records whose text is in valid or test too; case, spacing and "
        "punctuation do not count. Compared is the query where rankings are measured, the pair where grades are, the "
        "text of other tasks. warn: they are counted and one is named. put_aside: they are left out of train. refuse: "
        "ingest ends with an error.",
    )


# --- execution --------------------------------------------------------------------------------------------------------
class ExecutionConfig(Settings):
    """What runs the pieces of ingest and tokenize; the output is the same bytes. See docs/scale.md."""

    engine: Literal["processes", "dask"] = Field(
        default="processes",
        description="processes: of this host. dask: the workers of a Dask cluster, which see the same folders.",
    )
    address: str = Field(
        default="local",
        min_length=1,
        description="dask: the scheduler's address; local starts a cluster on this host.",
        examples=["tcp://10.0.0.5:8786"],
    )
    workers: Positive | None = Field(
        default=None,
        description="Processes of this host. null: one per core, but none beside the command for little data.",
    )

    @property
    def how(self) -> tuple[str, str, int | None]:
        """As core.executors.executor takes it."""
        return self.engine, self.address, self.workers


# --- tokenize ---------------------------------------------------------------------------------------------------------
class TokenizeConfig(Settings):
    """How texts become ids."""

    kind: Literal["word", "character", "sentencepiece", "jieba", "whitespace", "verbatim"] = Field(
        default="word",
        description="What a token is. word: runs of letters, runs of digits, single symbols. character: one character, "
        "blanks joined. sentencepiece: pieces of words, learned. jieba: Chinese words. whitespace: what stands between "
        "blanks, with a token for the end of a line. verbatim: every character, line ends included.",
    )
    lowercase: bool = Field(default=True, description="Makes all letters small. Labels and tags stay as they are.")
    vocabulary_size: Positive = Field(
        default=30_000,
        description="Maximum number of tokens in the vocabulary, the most frequent ones of train. A larger one knows "
        "more words and needs more memory.",
    )
    min_count: Positive = Field(
        default=2,
        description="Minimum number of occurrences in train of a token in the vocabulary; rarer ones are read as "
        "<unk>. sentencepiece ignores it.",
    )
    more_words: OwnPlace | None = Field(
        default=None,
        description="File whose words join those of train, in its order, as long as vocabulary_size has room: the file "
        "of model.vectors, or vocabulary.json of the folder of train.start_from. So words that train lacks are read by "
        "what was learnt of them elsewhere. null: none. sentencepiece ignores it.",
        examples=["~/glove.6B.100d.txt"],
    )
    sentencepiece_model: Literal["unigram", "bpe"] = Field(
        default="unigram", description="How sentencepiece learns its pieces; other kinds ignore it."
    )
    split_digits: bool = Field(
        default=False,
        description="Makes every digit of a number a token of its own, for sentencepiece; other kinds ignore it.",
    )
    max_tokens: dict[str, Positive | None] = Field(
        default={},
        description="Maximum number of tokens of each field; longer texts are cut. Fields that are not named keep "
        "their task's own limit. null: no limit, only for fields that have none by default.",
        examples=[{"query": 32, "document": 200}],
    )
    max_passages: Positive = Field(
        default=1,
        description="Task matching: passages of at most max_tokens.document, as an index cuts them, that a longer "
        "document is read in. Evaluation and `duplet predict` score a document by the best of them, training reads one "
        "that is drawn anew each time. What lies behind so many is cut off. 1: documents are cut at max_tokens.",
        examples=[8],
    )
    rows_per_shard: Positive = Field(
        default=50_000, description="Rows in one file of ids; smaller files take less memory while they are written."
    )

    def limit(self, field: str) -> int:
        """The most tokens of a field that is cut, once the whole configuration is read."""
        limit = self.max_tokens[field]
        assert limit is not None, f"{field} is not cut"
        return limit


# --- model and training -----------------------------------------------------------------------------------------------
class ModelConfig(Settings):
    """The recurrent network that reads a text."""

    cell: str = Field(
        default="lstm", description="Recurrent cell. gru is smaller and faster than lstm; rnn_… are the simple cells."
    )
    embedding: Positive = Field(default=128, description="Numbers in the vector of one token.")
    vectors: OwnPlace | None = Field(
        default=None,
        description="File of word vectors trained elsewhere, from which the embedding starts: word2vec (text or "
        "binary), GloVe or fastText (.vec), packed by gzip or not, of as many numbers as model.embedding. For "
        "matching, classification and tagging. null: random vectors.",
        examples=["~/glove.6B.100d.txt"],
    )
    vectors_tuned_after: Annotated[int, Field(ge=0)] | None = Field(
        default=0,
        description="Updates before which the words that model.vectors has keep their vectors. 0: they are trained "
        "like all others. null: they are never changed.",
    )
    hidden: Positive = Field(
        default=256,
        description="Numbers in the state of one direction of a layer. A larger one learns more and takes longer. "
        "Default: 96 for task matching, 256 for the others.",
    )
    layers: Positive = Field(default=1, description="Recurrent layers, each reading the states of the one below.")
    kernel: Literal["auto", "mxnet", "own"] = Field(
        default="auto",
        description="What computes the recurrent layers on CPUs. own: Duplet's, which are faster and need AVX2 or "
        "AVX512. auto: Duplet's where every worker can have them, else MXNet's; a training that goes on keeps what it "
        "began with. Results are the same except for rounding.",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="Numbers that the products of the recurrent layers multiply in training. bfloat16: rounded to 8 "
        "binary digits, which is faster and needs processors with AVX512_BF16; sums, parameters, moments and gradients "
        "stay float32. auto: bfloat16 where every worker can have it, else float32. A trained model is used in "
        "float32.",
    )
    directions: Literal[1, 2] = Field(
        default=2, description="1 reads forwards only, 2 forwards and backwards. Task language_model needs 1."
    )
    dropout: Share = Field(
        default=0.2,
        description="Share of the embeddings, and of the values between layers, that training sets to 0. A larger one "
        "helps against overfitting.",
    )
    word_dropout: Share = Field(
        default=0.0,
        description="Share of a text's tokens that training leaves out of what the encoder reads, drawn anew for each "
        "update. Helps where texts are few; 0.1 is much used.",
        examples=[0.1],
    )
    layer_norm: bool = Field(default=False, description="Normalizes the states of each layer.")
    residual: bool = Field(default=False, description="Adds a layer's input to its output where both are equally wide.")
    pooling: str = Field(
        default="max",
        description="How the states of all tokens become one vector of the text; max_mean: both, side by side.",
    )
    towers: Literal["shared", "separate"] = Field(
        default="shared",
        description="Task matching: one encoder for queries and documents, or one for each. Both share the embedding.",
    )
    head: str = Field(
        default="cosine",
        description="Task matching: how a query and a document become a score, by "
        f"{'; '.join(f'{head.name}: {head.summary}' for head in HEADS.own.values())}. Default: late_interaction.",
    )

    @property
    def steps_by(self) -> Cell:
        """The cell. Raises InputError where no installed package brings it."""
        cell: Cell = CELLS.named(self.cell)
        return cell

    @property
    def runs(self) -> str:
        """`kernel`, or "formula" for a cell that no kernel has."""
        return self.kernel if self.steps_by.kernel else "formula"

    @property
    def scored_by(self) -> Head:
        """The head. Raises InputError where no installed package brings it."""
        head: Head = HEADS.named(self.head)
        return head

    @property
    def head_options(self) -> Any:
        """The head's own settings; None of a head without."""
        return getattr(self, self.head, None) if self.scored_by.options else None

    @property
    def pooled_width(self) -> int:
        """Numbers of a text's vector, as the pooling makes it."""
        return self.hidden * self.directions * POOLINGS.named(self.pooling).times

    @property
    def vector_width(self) -> int:
        """Numbers of a vector that a tower gives the head: of a text, or of a token."""
        return 2 * self.embedding if self.scored_by.by_token else self.pooled_width


class ScheduleConfig(Settings):
    """How the learning rate changes from update to update."""

    kind: Literal["constant", "cosine", "linear"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up; constant: it stays."
    )
    warmup_updates: Annotated[int, Field(ge=0)] = Field(
        default=50, description="Updates in which the learning rate rises evenly to its full value."
    )
    final_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05, description="Learning rate at the last update, as a share of the full one; constant ignores it."
    )


class OptimizerConfig(Settings):
    """How gradients change the parameters."""

    kind: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="Method of the optimizer.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=1e-3, description="Full learning rate. A larger one learns faster, and may diverge.", examples=[3e-4]
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="adamw: decoupled weight decay; sgd: L2 penalty. adam ignores it."
    )
    momentum: Share = Field(default=0.9, description="sgd: share of the last step that is kept. Others ignore it.")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="Largest norm of all gradients together; a larger one is scaled to it. null: none."
    )


class TrainConfig(Settings):
    """How training runs; see docs/training.md."""

    workers: Positive = Field(
        default=1, description="Training processes that share each update. Their number does not change the batches."
    )
    gpus: bool = Field(default=False, description="Gives each worker one GPU; else they train on CPU cores.")
    threads_per_worker: Positive | None = Field(
        default=None, description="CPU threads of each worker. null: an equal share of the cores."
    )
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    max_pairs_per_update: Positive = Field(
        default=64,
        description="Maximum number of examples of one update, over all workers together. More give each query more "
        "negatives and need more memory.",
    )
    max_tokens_per_update: Positive = Field(
        default=32_768,
        description="Maximum number of tokens of one update, with padding, both sides and all workers together. It "
        "bounds the memory that long texts need.",
    )
    accumulate: Positive = Field(
        default=1,
        description="Parts that each worker takes its share of an update in, one after the other: the batch and its "
        "gradients stay the same, and only one part's texts need memory at a time. Pairs for ranking are encoded "
        "twice then.",
    )
    compression: Literal["none", "fp16"] = Field(
        default="none",
        description="How workers send each other gradients. fp16: as half as many bytes, multiplied by a scale that is "
        "halved whenever one overflows; that update is left out. For slow networks; see docs/training.md.",
    )
    start_from: OwnPlace | None = Field(
        default=None,
        description="Trained folder whose parameters training starts from. null: new parameters.",
        examples=["runs/train/3f2a91c4d0b7"],
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="Task classification and train.loss.kind=pointwise: how much a class or grade counts in the loss. "
        "balanced: the rarer it is in train, the more, so that all together count alike; better for macro_f1 where "
        "some are rare, and often worse for accuracy.",
    )
    join_naive_bayes: bool = Field(
        default=True,
        description="Task classification: joins naive Bayes over words and pairs of words to the network, with a "
        "weight chosen on valid, and predicts by both. It cannot be worse on valid than the better of the two. With "
        "metric=macro_f1 rare classes are said more often.",
    )
    join_overlap: bool = Field(
        default=True,
        description="train.loss.kind=pointwise with evaluate.kinds=[graded]: joins a classifier by what both texts "
        "have in common to the network, with a weight chosen on valid, and predicts by both. It cannot be worse on "
        "valid than the better of the two. With metric=macro_f1 rare grades are said more often.",
    )
    sure_precision: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Tasks classification, visual_question and matching: share of the answers called sure that must be "
        "right on valid. Probabilities are brought to what valid shows, and the least one of a sure answer is chosen; "
        "`duplet predict` says `sure` beside each answer, the table how many are. Of matching, a query's answer is its "
        "first document; a query without a relevant one has none. null: neither.",
        examples=[0.95],
    )
    bpe_dropout: Share = Field(
        default=0.0,
        description="Of tokenize.sentencepiece_model=bpe, tasks matching, classification and translation: probability "
        "that a merge of pieces is left out, drawn anew as an update reads a text. 0: none.",
        examples=[0.1],
    )
    swap_share: Share = Field(
        default=0.0,
        description="Of train.loss.kind=pointwise, for pairs that mean the same either way round: probability that an "
        "update reads a pair with its sides exchanged, drawn anew each time. 0: none.",
        examples=[0.5],
    )
    average: Share = Field(
        default=0.0,
        description="Decay of a running mean of the parameters, which is then what validation judges and what is kept: "
        "0.99 is over about the last 100 updates, 0.999 over 1,000; early in training over fewer. Often a little "
        "better than the last parameters. 0: none.",
        examples=[0.999],
    )
    epochs: Positive = Field(default=10, description="Passes over the train split.")
    max_updates: Positive | None = Field(
        default=None, description="Updates after which training ends, whatever epochs says. null: no such end."
    )
    validate_every_updates: Positive | None = Field(
        default=None, description="Updates between two validations. null: one at the end of each epoch."
    )
    patience_validations: Positive | None = Field(
        default=3, description="Training stops after so many validations without a better one. null: it never does."
    )
    metric: Filled = Field(
        default="",
        description="Metric by which validation chooses the best update. Default: the first that the task measures.",
        examples=["ndcg@10"],
    )
    checkpoint_every_updates: Positive = Field(
        default=200, description="Updates between two checkpoints. A kill loses at most so many."
    )
    keep_checkpoints: Positive = Field(
        default=2, description="Newest checkpoints that are kept; the best one is kept as well."
    )
    max_skipped_updates: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Updates that may be left out because their loss or gradients are not finite; one more stops the "
        "training.",
    )
    compare_ranks_every_updates: Positive = Field(
        default=100,
        description="Updates between two checks that all workers hold equal parameters; each checkpoint checks too.",
    )
    log_every_updates: Positive = Field(
        default=10, description="Updates between two points of the loss and speed, each the mean since the last one."
    )
    min_stall_s: Annotated[float, Field(ge=2)] = Field(
        default=30.0,
        description="Seconds after which a worker that gives no sign of life counts as stalled and the training ends; "
        "also the least time that a slow update may take.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.max_updates is not None and self.schedule.warmup_updates >= self.max_updates:
            raise ValueError(
                f"schedule.warmup_updates={self.schedule.warmup_updates} must be below max_updates={self.max_updates}"
            )
        needed = 2 * self.workers - 1  # the plan's smallest update is half a full one, rounded up
        if self.accumulate > 1 and self.max_pairs_per_update < 2 * self.workers * self.accumulate - 1:
            raise ValueError(
                f"max_pairs_per_update={self.max_pairs_per_update} cannot be divided into accumulate={self.accumulate} "
                f"parts for each of {self.workers} workers: it must be at least "
                f"{2 * self.workers * self.accumulate - 1}, or lower accumulate"
            )
        if self.max_pairs_per_update < needed:
            raise ValueError(
                f"max_pairs_per_update={self.max_pairs_per_update} leaves some of {self.workers} workers without a "
                f"pair: it must be at least {needed}"
            )
        return self


# --- evaluate, promote, track -----------------------------------------------------------------------------------------
class EvaluateConfig(Settings):
    """How a trained model is measured beside its baselines; see docs/report.md."""

    kinds: tuple[Literal["ranking", "graded"], ...] = Field(
        default=("ranking",),
        description="Task matching: what is measured. ranking: the order of a query's documents. graded: the grade of "
        "each pair, which needs train.loss.kind=pointwise.",
        examples=[["ranking", "graded"]],
    )
    candidates: Literal["collection", "listed"] = Field(
        default="collection",
        description="Documents that are ranked for a query: all of the collection, or those judged for it (listed).",
    )
    collection: Literal["all", "split"] = Field(
        default="all",
        description="Documents of the collection: of all splits, as a search ranks them, or of the query's split.",
    )
    depth: Annotated[int, Field(ge=10)] = Field(
        default=100, description="Documents kept per query; nothing deeper is measured."
    )
    fusion: Literal["mix", "linear"] = Field(
        default="mix",
        description="Task matching: how the fused ranking's scores are made. mix: the model's and BM25's, weighted. "
        "linear: a weighted sum of seven features of a query and a document (docs/training.md), fitted on the "
        "validation split; where it is no better there than the mix, the mix stays, and the table says so.",
    )
    stemmer: Literal["auto", "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian",
                     "portuguese", "russian", "spanish", "swedish", "turkish"] = Field(
        default="auto",
        description="Language by which BM25 brings words to their stem. auto: the language whose stop words are most "
        "frequent in the collection, if any is.",
    )  # fmt: skip
    bm25_k1: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="BM25's weight of repeated words. null: the best on the validation split."
    )
    bm25_b: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="BM25's correction for long documents. null: the best on the validation split."
    )
    bootstrap_samples: Positive = Field(
        default=1000, description="Samples that the 95 % intervals are made from. More give steadier ends."
    )
    shape: Literal["latex", "c", "python"] | None = Field(
        default=None,
        description="Task language_model: the layout that is counted in what the model writes: environments and braces "
        "that close, code that parses. null: nothing is counted.",
    )
    phrase_table: bool = Field(
        default=False,
        description="Task translation: puts a statistical translator (Koehn et al. 2003) beside the network; it takes "
        "about 10 minutes for 30,000 pairs.",
    )


class PromoteConfig(Settings):
    """When a new version takes the place of the champion, judged on the same test data; see docs/registry.md."""

    name: Filled = Field(default="", description="Name of the registered model. Default: the configuration's name.")
    metric: Filled = Field(
        default="",
        description="Metric that versions are compared by. `model/NAME`: of the network alone; `fused/NAME`: of what "
        "it is joined or mixed with. Default: train.metric.",
        examples=["mrr@10"],
    )
    min_difference: float = Field(
        default=0.0,
        description="What (new version - champion) must lie above. Below 0: the new version may be worse by less than "
        "that.",
        examples=[-0.01],
    )
    judge_by: Literal["interval", "mean"] = Field(
        default="interval",
        description="What must lie above min_difference: the whole 95 % interval of the difference, or the difference "
        "itself (mean).",
    )
    floors: dict[str, float] = Field(
        default={},
        description="Minimum value of each metric named, which every new version must reach, the first one too.",
        examples=[{"mrr@10": 0.4}],
    )
