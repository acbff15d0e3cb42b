"""A second model that scores the first documents of a ranking anew; its scores are mixed with the ranking's.

By construction, what is chosen is on the validation queries at least as good as the ranking alone: weight 0 is tried.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from mxnet import nd

from pipeline.config import Config
from pipeline.config.loading import stored_config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation.fusion import Mix, Pool, mix_of, reranked_scores
from pipeline.evaluation.ranking import Judgements, Ranking, rank_pairs
from pipeline.models.matcher import Matcher
from pipeline.models.parameters import parameters_of
from pipeline.tasks.matching_systems import Queries, Systems, chosen, pair_scores
from pipeline.tokenization import shards

NAME, ALONE = "reranked", "alone"  # over the fused ranking, and over the model's own


class SecondModel(NamedTuple):
    """The second model, as it was trained."""

    config: Config
    network: Matcher


def opened(config: Config, tokenized: Path, world: World) -> SecondModel:
    """The model of `rerank.model`. Raises InputError where it is none, or reads texts in another way."""
    folder = Path(str(config.rerank.model))
    setting = f"rerank.model={folder}"
    if not (data := atomic_files.json_object(folder / "config.json")):
        raise InputError(f"{setting} is not the folder of a trained model (no config.json)")
    second = stored_config(data, folder / "config.json")
    if not second.spec.heads:
        raise InputError(f"{setting} is a model of the task {second.task}: give one of the task matching")
    words = [shards.load_vocabulary(where) for where in (folder, tokenized)]
    if second.tokenize != config.tokenize or words[0] != words[1]:
        raise InputError(
            f"{setting} reads texts in another way than this model: train both with one section tokenize over the same "
            "texts"
        )
    network = Matcher(second.model, shards.vocabulary_size(tokenized), second.train.loss.outputs, prefix="second_")
    network.initialize(ctx=world.context)
    try:
        arrays = atomic_files.arrays(folder / "parameters.npz")
    except ValueError as error:
        raise InputError(f"{setting}: {error}") from None
    for name, parameter in parameters_of(network).items():
        if name not in arrays or arrays[name].shape != parameter.shape or not np.isfinite(arrays[name]).all():
            raise InputError(f"{setting} is damaged: {name} is not as its config.json says: train it again")
        parameter.set_data(nd.array(arrays[name]))
    return SecondModel(second, network)


def reranked(
    config: Config, tokenized: Path, systems: Systems | None, sets: tuple[Queries, Queries], world: World
) -> Systems | None:
    """The systems with one more: the fused ranking, whose first documents the second model places anew.

    Every rank must call it; rank 0 alone has systems.

    Args:
        sets: the queries to judge, and those that choose the weight.
    """
    second = opened(config, tokenized, world)
    firsts = [] if systems is None else [systems.rankings["fused"], systems.valid["fused"], systems.valid["model"]]
    tops = world.agree([first.documents[:, : config.rerank.top] for first in firsts], "documents to rerank")
    scores = [_scores(second, queries, documents, world) for queries, documents in zip((*sets, sets[1]), tops)]
    if systems is None:
        return None
    depth = None if config.evaluate.candidates == "listed" else config.evaluate.depth

    def mixed(number: int) -> tuple[Mix, dict[float, float], Ranking]:
        first, top, own, valid = firsts[number], tops[number], scores[number], sets[1].judgements
        rows, places = np.nonzero(top >= 0)
        pool = Pool(rows, top[rows, places], own[rows, places], first.scores[rows, places])
        mix, tried = chosen(config, mix_of(pool), valid, lambda mix: placed(first, own, mix, valid, depth))
        return mix, tried, placed(first, own, mix, valid, depth)

    (mix, tried, of_fused), (alone, _, of_model) = mixed(1), mixed(2)
    ranking = placed(firsts[0], scores[0], mix, sets[0].judgements, depth)
    made = {
        "model": str(Path(str(config.rerank.model)).resolve()), "top": config.rerank.top, **_named(mix), "tried": tried,
        ALONE: _named(alone),
    }  # fmt: skip
    rankings = {name: systems.rankings[name] for name in systems.rankings if name != "random"}
    rankings |= {NAME: ranking, "random": systems.rankings["random"]}
    return systems._replace(
        rankings=rankings,
        fusion_settings=systems.fusion_settings | {"rerank": made},
        valid=systems.valid | {NAME: of_fused, ALONE: of_model},
    )


def _named(mix: Mix) -> dict[str, float]:
    return {"weight": mix.weight, "scale": mix.model_scale, "first_scale": mix.words_scale}


def _scores(second: SecondModel, queries: Queries, documents: np.ndarray, world: World) -> np.ndarray:
    """(Q, K) documents, -1 for none, to the second model's (Q, K) float32 scores, there -inf."""
    rows, places = np.nonzero(documents >= 0)
    values = np.full(documents.shape, -np.inf, np.float32)
    values[rows, places] = pair_scores(second.config, second.network, queries, rows, documents[rows, places], world)
    return values


def placed(first: Ranking, second: np.ndarray, mix: Mix, judgements: Judgements, depth: int | None) -> Ranking:
    """A ranking whose first K documents stand by the mixed scores, with all others below in their order.

    Args:
        second: (Q, K) the second model's scores.
    """
    values = np.full(first.documents.shape, -np.inf)
    for row, count in enumerate((first.documents >= 0).sum(axis=1).tolist()):
        values[row, :count] = reranked_scores(first.scores[row, :count], second[row, :count], mix)
    rows, places = np.nonzero(first.documents >= 0)
    return rank_pairs(rows, first.documents[rows, places], values[rows, places], judgements, depth)
