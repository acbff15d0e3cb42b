"""Our own recurrent layers against MXNet's, number by number; what they promise bit for bit; where they give way."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config import ModelConfig
from pipeline.config.cells import OWN
from pipeline.models.encoder import Encoder, padding_of
from pipeline.models.kernel import operator
from pipeline.models.recurrent import RecurrentLayer, read_on
from tests.networks import built_layers, look_again, needs_bfloat16

CELLS = tuple(cell.name for cell in OWN)
CPU = mx.cpu()


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[None]:
    built_layers()
    operator.use("own")
    yield
    operator.use("auto")
    look_again()


# How far from MXNet's float32 a precision may be, by `apart`. Of relu in bfloat16 that holds for the states: a unit
# that rounding alone switches on or off passes on a whole slope or none, and this for all steps before.
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.02}
SWITCHED = 0.5  # for its gradients


@pytest.fixture(params=TOLERANCES)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both precisions in turn."""
    if request.param == "bfloat16":
        needs_bfloat16()
    operator.use("own", request.param == "bfloat16")
    yield request.param
    operator.use("own")


@pytest.fixture
def mxnets() -> Iterator[Callable[[], None]]:
    """Called, it lets MXNet's layers run for the rest of the test."""
    yield lambda: operator.use("mxnet")
    operator.use("own")


def encoder_of(cell: str, layers: int, directions: int, inputs: int, hidden: int) -> Encoder:
    mx.random.seed(3)
    np.random.seed(3)
    encoder = Encoder(ModelConfig(cell=cell, layers=layers, directions=directions, embedding=inputs, hidden=hidden,
                                  dropout=0.0))  # fmt: skip
    encoder.initialize()
    for name, parameter in encoder.collect_params().items():
        if name.endswith("bias"):
            parameter.set_data(nd.random.normal(0, 0.3, parameter.shape))
    return encoder


def run(encoder: Encoder, x: np.ndarray, lengths: tuple[int, ...], weights: np.ndarray) -> list[np.ndarray]:
    """States where texts are, and the gradients with respect to the input and every parameter."""
    given, size = nd.array(x), nd.array(lengths, dtype="int32")
    given.attach_grad()
    padding = padding_of(size, x.shape[0])
    with autograd.record():
        states = nd.broadcast_mul(encoder(given, padding), 1 - padding)
        loss = (states * nd.array(weights)).sum()
    loss.backward()
    parameters = [p.grad().asnumpy() for p in encoder.collect_params().values()]
    return [a.copy() for a in (states.asnumpy(), given.grad.asnumpy(), *parameters)]


def apart(ours: list[np.ndarray], theirs: list[np.ndarray], precision: str = "float32") -> float:
    """The largest difference, relative to an array's largest value where that is above 1; in bfloat16 the largest norm
    of an array's differences, relative to the array's."""
    if precision == "bfloat16":
        return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, theirs) if b.any())
    return max(float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in zip(ours, theirs))


def assert_near(ours: list[np.ndarray], theirs: list[np.ndarray], states: int, cell: str, precision: str) -> None:
    """The first arrays are states, the others gradients."""
    assert apart(ours[:states], theirs[:states], precision) < TOLERANCES[precision]
    switched = cell == "rnn_relu" and precision == "bfloat16"
    assert apart(ours, theirs, precision) < (SWITCHED if switched else TOLERANCES[precision])
    assert precision == "float32" or apart(ours, theirs) > 1e-5  # else it was not bfloat16


SIZES = {
    "one token of one text": (3, 7, (1,)),
    "one text": (16, 33, (9,)),
    "odd sizes": (5, 37, (4, 13, 1, 6, 13)),
    "whole vectors": (64, 96, (7, 2, 20, 20, 11, 5, 1, 3)),
    "a text without tokens": (5, 20, (3, 0, 6)),
    "more texts than a tile has rows": (131, 48, tuple(1 + i % 9 for i in range(29))),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (1, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("cell", CELLS)
def test_states_and_gradients_are_mxnets(
    cell: str, layers: int, directions: int, size: str, precision: str, mxnets: Callable[[], None]
) -> None:
    inputs, hidden, lengths = SIZES[size]
    rng = np.random.default_rng(7)
    x = rng.normal(size=(max(lengths), len(lengths), inputs)).astype(np.float32)
    weights = rng.normal(size=(*x.shape[:2], directions * hidden)) / np.sqrt(x.shape[0] * x.shape[1])
    encoder = encoder_of(cell, layers, directions, inputs, hidden)
    ours = run(encoder, x, lengths, weights)
    mxnets()
    theirs = run(encoder, x, lengths, weights)
    assert np.abs(ours[0]).max() > 0.05 and np.abs(ours[1]).max() > 1e-4
    assert_near(ours, theirs, 1, cell, precision)


@pytest.mark.parametrize("cell", CELLS)
def test_given_states_their_gradients_and_the_states_after_are_mxnets(
    cell: str, precision: str, mxnets: Callable[[], None]
) -> None:
    steps, texts, inputs, hidden = 11, 7, 9, 21
    rng = np.random.default_rng(1)
    layer = RecurrentLayer(cell, inputs, hidden, 1)
    layer.initialize(mx.init.Uniform(0.3))
    parts = 2 if cell == "lstm" else 1
    x = nd.array(rng.normal(size=(steps, texts, inputs)))
    states = [nd.array(rng.normal(size=(1, texts, hidden)) / 2) for _ in range(parts)]
    weights = [nd.array(rng.normal(size=(n, texts, hidden))) for n in (steps, *[1] * parts)]

    def found() -> list[np.ndarray]:
        packed = layer.packed(CPU)
        for array in (x, packed, *states):
            array.attach_grad()
        with autograd.record():
            y, after = read_on(cell, hidden, x, states, packed)
            loss = sum((a * w).sum() for a, w in zip((y, *after), weights))
        loss.backward()
        return [a.asnumpy().copy() for a in (y, *after, x.grad, packed.grad, *(s.grad for s in states))]

    ours = found()
    mxnets()
    assert_near(ours, found(), 1 + parts, cell, precision)


def test_factors_of_bfloat16_are_the_nearest_and_sums_are_float32() -> None:
    """One unit that passes on what it reads: y = x * w, of one token and of two inputs."""
    needs_bfloat16()
    tie, tiny, most = 1 + 2.0**-8, 2.0**-130, np.finfo(np.float32).max
    read = np.array([1.0, tie, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 3.14159274, tiny, most, np.inf, np.nan])
    nearest = np.array([1.0, 1.0, 1 + 2.0**-6, 1 + 2.0**-7, 3.140625, 0.0, np.inf, np.inf, np.nan])
    x = nd.array(np.stack([read, np.zeros_like(read)], axis=1)[None])
    packed = nd.array([1, 0, 0, 0, 0])  # i2h of the two inputs, h2h, the biases
    operator.use("own", bfloat16=True)
    (y,) = operator.recurrent("rnn_relu", 1, 1, x, packed)
    np.testing.assert_array_equal(y.asnumpy()[0, :, 0], nearest.astype(np.float32))
    x = nd.array([[[4097.0, 2.0**-3]]])  # to 4096; with the second factor's product no bfloat16 any more
    (y,) = operator.recurrent("rnn_relu", 1, 1, x, nd.array([1, 1, 0, 0, 0.015625]))
    operator.use("own")
    assert y.asnumpy().item() == 4096 + 0.125 + 0.015625


@pytest.mark.parametrize("cell", CELLS)
def test_a_text_has_the_same_bits_alone_and_among_others(cell: str, precision: str) -> None:
    lengths, inputs, hidden = (5, 17, 1, 9, 17, 3, 3, 12), 19, 40
    rng = np.random.default_rng(2)
    x = rng.normal(size=(23, len(lengths), inputs)).astype(np.float32)  # what stands on padding is arbitrary
    weights = rng.normal(size=(23, len(lengths), 2 * hidden)).astype(np.float32)
    encoder = encoder_of(cell, 2, 2, inputs, hidden)
    together, slopes, *_ = run(encoder, x, lengths, weights)
    for i, length in enumerate(lengths):
        alone, slope, *_ = run(encoder, x[:length, i : i + 1], (length,), weights[:length, i : i + 1])
        np.testing.assert_array_equal(together[:length, i], alone[:, 0])
        np.testing.assert_array_equal(slopes[:length, i], slope[:, 0])
        assert not together[length:, i].any() and not slopes[length:, i].any()


def test_a_number_that_is_none_stays_in_its_text_and_is_not_lost(precision: str) -> None:
    for cell in CELLS:
        encoder = encoder_of(cell, 1, 2, 6, 18)
        x = np.random.default_rng(0).normal(size=(5, 3, 6)).astype(np.float32)
        weights = np.ones((5, 3, 36), np.float32)
        clean = run(encoder, x, (5, 4, 3), weights)
        x[2, 1, 3] = np.nan
        spoiled = run(encoder, x, (5, 4, 3), weights)
        assert np.isnan(spoiled[0][2, 1]).all(), cell
        for text in (0, 2):
            np.testing.assert_array_equal(spoiled[0][:, text], clean[0][:, text])
        assert all(np.isnan(gradient).any() for gradient in spoiled[1:]), cell


def test_one_set_of_parameters_may_serve_many_calls_of_an_update() -> None:
    layer = RecurrentLayer("lstm", 4, 6, 1)
    layer.initialize(mx.init.Uniform(0.5))
    x = [nd.random.normal(shape=(2, 3, 4)) for _ in range(20)]
    padding = nd.zeros((2, 3, 1))
    sums = np.zeros((24, 6))
    for some in [*[[one] for one in x], x]:
        with autograd.record():
            packed = layer.packed(CPU)
            loss = sum(layer(one, padding, packed).sum() for one in some)
        loss.backward()
        whole = layer.f_h2h_weight.grad().asnumpy()
        sums += whole if some is not x else 0
    np.testing.assert_allclose(whole, sums, atol=1e-4)


def test_what_does_not_fit_is_refused_by_a_sentence() -> None:
    layer = RecurrentLayer("gru", 4, 6, 1)
    layer.initialize()
    packed = layer.packed(CPU)
    with pytest.raises(mx.MXNetError, match="parameters are of another size"):
        layer(nd.zeros((2, 3, 5)), nd.zeros((2, 3, 1)), packed)
    with pytest.raises(mx.MXNetError, match=r"data must be \(T, N, C\)"):
        layer(nd.zeros((2, 12)), nd.zeros((2, 3, 1)), packed)
    with pytest.raises(mx.MXNetError, match="padding must be"):
        layer(nd.zeros((2, 3, 4)), nd.zeros((1, 3, 1)), packed)
    with pytest.raises(mx.MXNetError, match="float32"):
        layer(nd.zeros((2, 3, 4), dtype="float64"), nd.zeros((2, 3, 1)), packed)


MEMORY = """
import resource
from pathlib import Path
import mxnet as mx
from mxnet import nd
from pipeline.models.kernel import operator
from pipeline.models.recurrent import RecurrentLayer
layer = RecurrentLayer("lstm", 8, 512, 1)
layer.initialize()
x, padding, packed = nd.ones((400, 64, 8)), nd.zeros((400, 64, 1)), layer.packed(mx.cpu())
operator.use("own")
assert operator.ready(mx.cpu())
layer(x[:2], padding[:2], packed).wait_to_read()
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (150 << 20),) * 2)  # the states take 50 MiB, the gates 200
try:
    layer(x, padding, packed).wait_to_read()
except mx.MXNetError as error:
    print(error)
"""


def test_memory_that_runs_out_is_an_error_and_no_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=250, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "duplet_recurrent: memory allocation failed" in done.stdout


# --- other numbers of threads, other instructions ---------------------------------------------------------------------
# as in a worker, Horovod comes first: it makes MXNet's symbols global, which must not take the place of the library's
BITS = """
import hashlib, sys
import horovod.mxnet as hvd
hvd.init()
import numpy as np
from tests.models import test_kernel as t
from pipeline.models.kernel import library, operator
operator.use("own", bfloat16=sys.argv[1] == "bfloat16")
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for cell in t.CELLS:
    for directions in (1, 2):
        lengths = (5, 17, 1, 9, 17, 3, 3, 12, 0, 8)
        x = rng.normal(size=(19, len(lengths), 21)).astype(np.float32)
        weights = rng.normal(size=(19, len(lengths), directions * 50)).astype(np.float32)
        for array in t.run(t.encoder_of(cell, 2, directions, 21, 50), x, lengths, weights):
            digest.update(array.tobytes())
print(library.found().phrase, digest.hexdigest(), sep="\\t")
"""


def bits(precision: str = "float32", **environment: str) -> list[str]:
    """What the process says of its kernel, and a digest of all states and gradients."""
    done = subprocess.run(
        [sys.executable, "-c", BITS, precision], capture_output=True, text=True, env={**os.environ, **environment},
        cwd=Path(__file__).parents[2], timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1].split("\t")


def test_bits_repeat_and_do_not_depend_on_the_number_of_threads(precision: str) -> None:
    one, again, three = (bits(precision, OMP_NUM_THREADS=n) for n in ("1", "1", "3"))
    assert one == again == three
    assert one[0].startswith("Duplet's own")


def test_with_avx2_the_same_holds() -> None:
    which = "not bfloat16 and ((mxnets and not below) or alone or none)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", which],
        capture_output=True, text=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, timeout=280,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert bits(ONEDNN_MAX_CPU_ISA="AVX2")[0] in {
        f"Duplet's own (AVX2, float32; no bfloat16: {why})"
        for why in ("ONEDNN_MAX_CPU_ISA=AVX2 forbids AVX512_BF16", "the processor has no AVX512_BF16")
    }


def test_bfloat16_can_be_forbidden_alone() -> None:
    needs_bfloat16()
    said, digest = bits(ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert said == "Duplet's own (AVX512, float32; no bfloat16: ONEDNN_MAX_CPU_ISA=AVX512_CORE forbids AVX512_BF16)"
    assert bits() == ["Duplet's own (AVX512, float32 and bfloat16)", digest]


def test_bfloat16_is_never_emulated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BITS, "bfloat16"], capture_output=True, text=True, timeout=250,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1 and "duplet_recurrent: " in done.stderr and "AVX512_BF16" in done.stderr


def test_below_avx2_mxnets_layers_run_and_the_reason_is_said() -> None:
    said = bits(ONEDNN_MAX_CPU_ISA="SSE41")[0]
    assert said == "MXNet's (ONEDNN_MAX_CPU_ISA=SSE41 forbids AVX2, which its own need)"


def test_use_holds_for_the_process(mxnets: Callable[[], None]) -> None:
    assert operator.ready(CPU) and operator.ready(mx.cpu(1))
    mxnets()
    assert not operator.ready(CPU)
    operator.use("auto")
    assert operator.ready(CPU)


def test_the_operator_is_registered_once_however_often_it_is_looked_for() -> None:
    handles = set()
    for _ in range(4):
        operator._handle.cache_clear()
        handles.add(operator._handle())
    assert len(handles) == 1 and None not in handles and operator.told().startswith("Duplet's own")


def test_arrays_stay_on_their_device() -> None:
    layer = RecurrentLayer("lstm", 3, 5, 2)
    layer.initialize(ctx=mx.cpu(1))
    x = nd.ones((2, 4, 3), ctx=mx.cpu(1))
    x.attach_grad()
    with autograd.record():
        y = layer(x, nd.zeros((2, 4, 1), ctx=mx.cpu(1)), layer.packed(mx.cpu(1)))
    y.backward()
    assert {y.context, x.grad.context, layer.b_h2h_weight.grad(mx.cpu(1)).context} == {mx.cpu(1)}
    assert x.grad.asnumpy().any()
