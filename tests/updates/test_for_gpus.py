"""What is done otherwise on a GPU, as far as it can be seen without one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.models.dropout import Dropout
from pipeline.tasks.base import task_of
from pipeline.training import loop
from pipeline.training.batch_plan import Plan
from pipeline.training.worker import gpu_environment


@pytest.mark.parametrize("task", ["matching", "classification", "tagging", "cloze"])
def test_texts_of_unlike_lengths_stay_in_one_chunk(task: str, made: Callable[..., Any]) -> None:
    chunks = {}
    for gpus in (False, True):
        config, _, tokenized = made(task, longest=40, train={"gpus": gpus, "max_tokens_per_update": 16384})
        opened = task_of(config, tokenized)
        batch = opened.batch([np.arange(12)], 0, [1, 0, 0, 0])
        texts = batch.sides["document"] if task == "matching" else batch.texts
        assert sum(len(chunk.lengths) for chunk in texts.chunks) >= 12
        chunks[gpus] = len(texts.chunks)
    assert chunks[True] == 1 < chunks[False]


def test_dropout_masks_are_not_left_to_cudnn() -> None:
    written = Dropout(0.5)(mx.sym.var("x")).tojson()
    assert '"cudnn_off": "True"' in written
    masks = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        with autograd.record():
            masks.append(Dropout(0.5)(nd.ones((8, 8))).asnumpy())
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()
    x = nd.ones((2, 2))
    with autograd.record():
        assert Dropout(0.0)(x) is x  # no copy of all states where nothing is dropped


@pytest.mark.parametrize(("context", "operators"), [(mx.gpu(0), loop.BULK), (mx.cpu(), None)])
def test_operators_are_bulked(context: mx.Context, operators: int | None) -> None:
    before = mx.engine.set_bulk_size(7)
    try:
        with loop.bulk(SimpleNamespace(context=context)):  # type: ignore[arg-type]
            within = mx.engine.set_bulk_size(7)
        assert within == (operators or 7)
    finally:
        mx.engine.set_bulk_size(before)


def test_tf32_is_off_where_it_would_spoil_padding(made: Callable[..., Any]) -> None:
    found = {cell: gpu_environment(made("matching", model={"cell": cell})[0]) for cell in ("lstm", "rnn_tanh")}
    assert found["rnn_tanh"]["NVIDIA_TF32_OVERRIDE"] == "0" and "NVIDIA_TF32_OVERRIDE" not in found["lstm"]


@pytest.mark.parametrize(("pairs", "workers", "warned"), [(64, 16, True), (64, 4, False), (63, 4, True), (4, 1, False)])
def test_few_pairs_for_a_worker_are_warned_of(pairs: int, workers: int, warned: bool) -> None:
    said = loop.few_pairs(Plan(np.ones((100, 2), np.int32), pairs, 10**6, 1), workers)
    assert bool(said) == warned
    assert said is None or f"leaves each of {workers} workers about {round(pairs / workers)} examples" in said
