"""Networks as tests begin with them, and our own recurrent layers where they can be had."""

import json
import shutil
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from mxnet.gluon.model_zoo import vision

from pipeline.config import Config
from pipeline.models.kernel import build, library, operator
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import task_of
from pipeline.tokenization.encoder import VOCABULARY_NAME


def fresh(task: Any, seed: int = 1, **options: Any) -> Any:
    """A task's network with parameters that are drawn, by a seed and by what `initialize` takes."""
    network = task.network()
    mx.random.seed(seed)
    np.random.seed(seed)
    network.initialize(**options)
    return network


def untrained_folder(config: Config, tokenized: Path, folder: Path, seed: int = 5) -> Path:
    """As much of a trained folder as a second stage is read from, with parameters that are drawn."""
    network = fresh(task_of(config, tokenized), seed, init=mx.init.Normal(0.5), force_reinit=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    np.savez(folder / "parameters.npz", **{name: p.data().asnumpy() for name, p in parameters_of(network).items()})
    (folder / "config.json").write_text(json.dumps(config.shown))
    shutil.copy(tokenized / VOCABULARY_NAME, folder)
    return folder


def alexnet(file: Path) -> tuple[Any, np.ndarray, nd.NDArray]:
    """The model zoo's AlexNet, its drawn parameters written to a file; two pictures, and they as it takes them.

    Returns:
        The network; (2, 224, 224, 3) uint8; (2, 3, 224, 224) float32.
    """
    network = vision.alexnet()
    mx.random.seed(4)
    network.initialize(mx.init.Xavier())
    pictures = np.random.default_rng(1).integers(0, 255, (2, 224, 224, 3)).astype(np.uint8)
    x = nd.array((pictures / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose((0, 3, 1, 2))
    network(x)  # gives the output's parameters their shapes
    network.save_parameters(str(file))
    return network, pictures, x


def built_layers() -> str:
    """The instruction set of our own recurrent layers, built where they are not; the test is skipped without AVX2."""
    build.build()
    look_again()
    if not operator.instructions():
        assert "avx2" not in Path("/proc/cpuinfo").read_text(), operator.told()
        pytest.skip("the processor has no AVX2")
    return operator.instructions()


def needs_bfloat16() -> None:
    """The test is skipped where our own layers cannot have it."""
    built_layers()
    if operator.no_bfloat16():
        assert "avx512_bf16" not in Path("/proc/cpuinfo").read_text(), operator.no_bfloat16()
        pytest.skip("the processor has no AVX512_BF16")


def look_again() -> None:
    """Has the library looked for anew."""
    library.found.cache_clear()
    operator._handle.cache_clear()
