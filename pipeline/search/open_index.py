"""Which model an index belongs to, and opening both together."""

import shlex
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.evaluation import linear
from pipeline.search import index_store
from pipeline.search.index_store import ModelStamp, State
from pipeline.search.searcher import Searcher
from pipeline.search.segments import Encodes
from pipeline.search.words_alone import WordsAlone
from pipeline.serving import fetching, loading, model_folder, second_stage
from pipeline.serving.predict import text_encoder
from pipeline.serving.second_stage import Rerank
from pipeline.tokenization.encoder import load_vocabulary


def stamp_of(folder: Path, model: str, encoder: Encodes) -> ModelStamp:
    """The stamp of a model's folder. Raises InputError where its head cannot be searched with."""
    if encoder.config.model.scored_by.index == "none":
        raise InputError(
            f"{model} has the head {encoder.config.model.head}, which is not for an index: score pairs with "
            f"`{shlex.join(['duplet', 'predict', model])} --input pairs.jsonl`"
        )
    stage, config = model_folder.stage_of(folder), encoder.config
    return ModelStamp(second_stage.key_of(folder), stage, str(folder.absolute()), model, config.model.head, config.task)


def open_model(
    state: State,
    index: Path,
    model: str | None,
    root: Path,
    uri: str | None,
    backend: text_encoder.Backend,
    threads: int | None,
) -> tuple[Encodes, frozenset[str] | None]:
    """The index's model and the words it knows; of an index without one, what cuts texts into words, and None.

    Args:
        model: as the person names it; None: the folder that the index was built with.

    Raises:
        InputError: there is no such model any more, or it is another one than the index was built with.
    """
    if state.model is None:
        if model is not None:
            raise InputError(
                f"{index} has no model: leave --model out, or let the model join it with "
                f"`{shlex.join(['duplet', 'index', model, '--output', str(index)])}`"
            )
        return WordsAlone(state.settings.tokens), None
    try:
        folder = fetching.fetch(model or state.model.folder, root, uri)
    except InputError as error:
        if model is not None:
            raise
        raise InputError(
            f"the model that {index} was built with cannot be used ({error}); "
            f"if {state.model.given} lies elsewhere now, name it with --model"
        ) from None
    encoder = loading.open_encoder(folder, backend, threads)
    stamp = stamp_of(folder, model or state.model.given, encoder)
    check_stamp(state, index, stamp)
    return encoder, frozenset(load_vocabulary(folder))


def check_stamp(state: State, index: Path, stamp: ModelStamp) -> None:
    """Raises InputError where an index is of another model."""
    assert state.model is not None
    if (stamp.key, stamp.head, stamp.task) == (state.model.key, state.model.head, "matching"):
        return
    if stamp.key == state.model.key:
        raise InputError(
            f"{index} is damaged (its model has the head {stamp.head}, not {state.model.head!r:.40}): "
            "delete it and run `duplet index` again"
        )
    raise InputError(
        f"{index} was built with model {state.model.key} ({state.model.given}), not with {stamp.key} "
        f"({stamp.given}), whose vectors cannot be compared: "
        f"build an index with `duplet index {shlex.quote(stamp.given)} …`"
    )


def mix_settings(made: dict[str, Any], of: str) -> dict[str, Any]:
    """What a new index's Settings take of a model's evaluation.

    Args:
        made: fusion.json; {}: it was not evaluated. of: the model, as the person names it.

    Raises:
        InputError: it is damaged, or the second model is gone.
    """
    names = ("stemmer", "k1", "b", "weight", "model_scale", "words_scale")
    try:
        combined = linear.read(made["linear"]) if "linear" in made else None
    except ValueError as error:
        raise InputError(f"the evaluation of {of} is damaged ({error}): evaluate or export it again") from None
    second = second_stage.chosen(made["rerank"], of) if "rerank" in made else None
    more = {"linear": combined, "rerank": second, "answering": second_stage.sure_of(made["rerank"] if second else made)}
    return {name: made[name] for name in names if name in made} | more


def open_second(
    second: Rerank, index: Path, backend: text_encoder.Backend = "onnx", threads: int | None = None
) -> text_encoder.TextEncoder:
    """The model that scores an index's first documents anew. Raises InputError where it is gone or another one."""
    try:
        folder = model_folder.checked(Path(second.folder))
        if (key := second_stage.key_of(folder)) != second.key:
            raise InputError(f"{folder} holds model {key}, not {second.key}")
        return loading.open_encoder(folder, backend, threads)
    except InputError as error:
        raise InputError(
            f"the second model of {index} cannot be used ({error}): put it back, or build the index again"
        ) from None


def open_searcher(
    index: Path,
    model: str | None,
    root: Path,
    uri: str | None,
    backend: text_encoder.Backend = "onnx",
    threads: int | None = None,
) -> Searcher:
    """An index ready for queries. Raises InputError as `store.open_snapshot` and `open_model` do."""
    snapshot = index_store.open_snapshot(index)
    encoder, vocabulary = open_model(snapshot.state, index, model, root, uri, backend, threads)
    rerank = snapshot.state.settings.rerank
    second = None if rerank is None else open_second(rerank, index, backend, threads)
    return Searcher(snapshot, encoder, vocabulary, second)
