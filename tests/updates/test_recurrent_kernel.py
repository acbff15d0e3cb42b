"""A training by MXNet's recurrent layers and by our own: which runs, what is said, what goes on, to which bits."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.models.kernel import library, operator
from pipeline.models.parameters import parameters_of
from pipeline.orchestration import flow
from pipeline.orchestration.model_stages import Train
from pipeline.tasks.base import task_of
from pipeline.training import checkpoint, loop, recurrent_kernel, replay
from pipeline.training.batch_plan import Position
from pipeline.training.loader import Loader
from tests.networks import built_layers, fresh, needs_bfloat16

TASKS = ("matching", "tagging", "language_model")  # both directions into one vector; into all states; given states
KERNELS = ("own", "mxnet", "bfloat16")  # the last: our own in that precision


@pytest.fixture(scope="module", autouse=True)
def own() -> Iterator[str]:
    """The name of our own layers here; they are built where they are not."""
    yield f"own {built_layers()}"
    operator.use("auto")


class Trained:
    """A training of some updates with a checkpoint after each, begun or gone on with, and what it said."""

    def __init__(self, made: Callable[..., Any], task: str, folder: Path, kernel: str, updates: int = 4) -> None:
        often = {"max_updates": updates, "checkpoint_every_updates": 1, "validate_every_updates": 2,
                 "keep_checkpoints": 9, "log_every_updates": 1, "schedule": {"warmup_updates": 0}}  # fmt: skip
        layers = {"kernel": kernel}
        if kernel == "bfloat16":
            needs_bfloat16()
            layers = {"precision": "bfloat16"}
        config, _, tokenized = made(task, train=often, model={"dropout": 0.1, **layers})
        self.task, self.said, self.config = task_of(config, tokenized), list[str](), config
        self.network = fresh(self.task)
        folder.mkdir(exist_ok=True)
        self.folder, spool = folder / "checkpoints", Spool(folder / "points.jsonl")
        self.state = loop.fit(self.task, self.network, config, World(), self.folder, spool, self.said.append)
        self.last = checkpoint.load(self.folder / f"update-{updates:08d}")

    @property
    def layers(self) -> list[str]:
        """The lines about what runs."""
        return [line for line in self.said if "recurrent layers" in line]

    def back_to(self, update: int) -> None:
        """As after a kill."""
        for name in checkpoint.names(self.folder):
            if name > f"update-{update:08d}":
                shutil.rmtree(self.folder / name)


def name_of(kernel: str, own: str) -> str:
    """As a checkpoint has it."""
    return {"own": own, "mxnet": "mxnet", "bfloat16": library.BFLOAT16}[kernel]


def assert_same_bits(one: Trained, other: Trained) -> None:
    for mine, yours in zip(one.last[2:], other.last[2:]):  # parameters, moments
        assert mine.keys() == yours.keys()
        for name in mine:
            assert mine[name].tobytes() == yours[name].tobytes(), name
    assert one.state.history == other.state.history


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_killed_training_goes_on_to_the_same_bits(
    task: str, kernel: str, made: Callable[..., Any], tmp_path: Path, own: str
) -> None:
    whole = Trained(made, task, tmp_path / "whole", kernel)
    Trained(made, task, tmp_path / "killed", kernel).back_to(2)
    after = Trained(made, task, tmp_path / "killed", kernel)
    assert "going on from update-00000002" in after.said
    assert_same_bits(whole, after)
    name = name_of(kernel, own)
    assert whole.state.kernel == after.state.kernel == name
    why = " (model.kernel=mxnet)" if kernel == "mxnet" else ""
    assert whole.layers == after.layers == [f"recurrent layers: {library.told(name)}{why}"]


def test_what_was_begun_is_kept_unless_the_setting_says_otherwise(
    made: Callable[..., Any], tmp_path: Path, own: str
) -> None:
    whole = Trained(made, "matching", tmp_path / "run", "mxnet")
    whole.back_to(2)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    after = Trained(made, "matching", tmp_path / "run", "auto")
    assert after.layers == ["recurrent layers: MXNet's (what this goes on from had them)"]
    assert_same_bits(whole, after)
    other = Trained(made, "matching", tmp_path / "other", "own")
    ours = library.told(own)
    assert other.layers == [
        f"warning: recurrent layers were MXNet's before, and are {ours} from here on: results are the same but for "
        "float noise, and not bit for bit",
        f"recurrent layers: {ours}",
    ]
    assert other.state.kernel == own
    for name, array in whole.last.parameters.items():
        np.testing.assert_allclose(other.last.parameters[name], array, atol=2e-5, err_msg=name)


def test_where_ours_are_gone_a_training_goes_on_with_mxnets_and_says_so(
    made: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    Trained(made, "matching", tmp_path / "run", "auto").back_to(2)
    gone = library.without("the processor has no AVX2, which its own need")
    monkeypatch.setattr(library, "found", lambda: gone)
    operator._handle.cache_clear()
    try:
        after = Trained(made, "matching", tmp_path / "run", "auto")
        assert after.layers[0].startswith(f"warning: recurrent layers were {library.told(own)} before, and are MXNet's")
        assert after.layers[1:] == [f"recurrent layers: {gone.phrase}"] and after.state.kernel == "mxnet"
        with pytest.raises(InputError, match=r"model\.kernel=own cannot be had, .*no AVX2"):
            Trained(made, "matching", tmp_path / "new", "own")
    finally:
        operator._handle.cache_clear()


def test_a_checkpoint_of_before_is_mxnets(made: Callable[..., Any], tmp_path: Path) -> None:
    trained = Trained(made, "tagging", tmp_path / "run", "auto", updates=1)
    state = trained.last.folder / "state.json"
    values = json.loads(state.read_text())
    del values["kernel"]
    state.write_text(json.dumps(values))
    sums = json.loads((trained.last.folder / "checksums.json").read_text())
    sums["state.json"] = atomic_files.sha256(state)
    (trained.last.folder / "checksums.json").write_text(json.dumps(sums))
    assert checkpoint.load(trained.last.folder).state.kernel == "mxnet"


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_update_is_computed_again_to_the_same_bits_by_what_computed_it(
    kernel: str, made: Callable[..., Any], tmp_path: Path, own: str
) -> None:
    trained = Trained(made, "matching", tmp_path / "run", kernel, updates=1)
    seen = next(row for row in trained.state.history if "loss" in row)
    task, network, world = trained.task, fresh(trained.task), World()
    loader = Loader(task, loop.plan_of(task, trained.config), world, Position(), 1)
    update = next(iter(loader))
    loader.close()
    kept = replay.Replayed(
        1, seen["loss"], seen["gradient_norm"], [part.tolist() for part in update.examples], update.seed,
        str(task.folder), trained.config.model_dump(mode="json"), trained.state.kernel,
    )  # fmt: skip
    before = {name: p.data().asnumpy() for name, p in parameters_of(network).items()}
    replay.keep(tmp_path / "kept", kept, before, {})
    assert replay.load(tmp_path / "kept").kernel == name_of(kernel, own)
    operator.use("mxnet" if kernel == "own" else "own")  # what the process had before does not count
    found = replay.again(tmp_path / "kept", task, fresh(task), trained.config, world, pytest.fail)
    assert found["same"], found


# --- several workers, settings, keys ----------------------------------------------------------------------------------
def worker(codes: list[int], device: str = "cpu") -> Any:
    """A world whose workers have these instructions."""
    return SimpleNamespace(context=mx.Context(device), gather_numpy=lambda rows, name: np.array(codes, rows.dtype))


@pytest.mark.parametrize(
    ("codes", "setting", "name", "said"),
    [
        ([2, 2], "auto", "own avx512", "Duplet's own (AVX512, float32)"),
        ([3, 3], "auto", "own avx512", "Duplet's own (AVX512, float32)"),
        ([3, 1], "own", "own avx2+avx512", "Duplet's own (AVX2 and AVX512, float32)"),
        ([2, 0], "auto", "mxnet", "MXNet's (worker 1 cannot have others: `duplet doctor` there says why)"),
        ([2, 0], "mxnet", "mxnet", "MXNet's (model.kernel=mxnet)"),
    ],
)
def test_workers_decide_alike(codes: list[int], setting: str, name: str, said: str) -> None:
    assert recurrent_kernel.agree(setting, "float32", "", worker(codes), pytest.fail) == (name, said)
    assert operator.ready(mx.cpu()) == name.startswith("own")


IN_BFLOAT16 = (library.BFLOAT16, "Duplet's own (AVX512_BF16, bfloat16)")
OTHER = "worker 1 cannot have it: `duplet doctor` there says why"


@pytest.mark.parametrize(
    ("codes", "setting", "precision", "before", "found"),
    [
        ([3, 3], "auto", "bfloat16", "", IN_BFLOAT16),
        ([3, 3], "auto", "auto", "", IN_BFLOAT16),
        ([3, 3], "own", "auto", library.BFLOAT16, IN_BFLOAT16),
        ([3, 2], "auto", "auto", "", ("own avx512", f"Duplet's own (AVX512, float32) (no bfloat16: {OTHER})")),
        ([3, 3], "auto", "auto", "own avx512", (
            "own avx512", "Duplet's own (AVX512, float32) (no bfloat16: what this goes on from had none)")),
        ([3, 3], "auto", "auto", "mxnet", ("mxnet", "MXNet's (what this goes on from had them)")),
        ([3, 3], "mxnet", "auto", "", ("mxnet", "MXNet's (model.kernel=mxnet)")),
        ([3, 3], "formula", "auto", "", ("mxnet", "MXNet's (by the formula of model.cell)")),
        ([3, 0], "auto", "auto", "", (
            "mxnet", "MXNet's (worker 1 cannot have others: `duplet doctor` there says why)")),
    ],
)  # fmt: skip
def test_workers_decide_alike_on_bfloat16(
    codes: list[int], setting: str, precision: str, before: str, found: tuple[str, str]
) -> None:
    needs_bfloat16()
    assert recurrent_kernel.agree(setting, precision, before, worker(codes), pytest.fail) == found
    assert operator._bfloat16 == (found == IN_BFLOAT16) and operator.ready(mx.cpu()) == found[0].startswith("own")


def test_another_precision_than_before_is_said() -> None:
    needs_bfloat16()
    for precision, before, codes in (("bfloat16", "own avx512", [3, 3]), ("auto", library.BFLOAT16, [3, 2])):
        said: list[str] = []
        recurrent_kernel.agree("auto", precision, before, worker(codes), said.append)
        assert len(said) == 1 and said[0].endswith("from here on: results differ by the rounding of bfloat16")


def test_bfloat16_is_refused_where_one_worker_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_bfloat16()
    with pytest.raises(InputError, match=r"precision=bfloat16 cannot be had: worker 1 .*to auto or float32"):
        recurrent_kernel.agree("auto", "bfloat16", "", worker([3, 2]), pytest.fail)
    monkeypatch.setattr(operator, "no_bfloat16", lambda: "the processor has no AVX512_BF16")
    with pytest.raises(InputError, match=r"precision=bfloat16 cannot be had: the processor has no AVX512_BF16; set"):
        recurrent_kernel.agree("auto", "bfloat16", "", worker([2, 3]), pytest.fail)


def test_a_model_trained_in_bfloat16_is_evaluated_in_float32_and_nothing_is_said_of_it() -> None:
    needs_bfloat16()
    name, said = recurrent_kernel.agree(
        "auto", "float32", library.in_float32(library.BFLOAT16), worker([3, 3]), pytest.fail
    )
    assert (name, said) == ("own avx512", "Duplet's own (AVX512, float32)") and not operator._bfloat16


def test_own_is_refused_where_one_worker_lacks_it() -> None:
    with pytest.raises(InputError, match=r"model\.kernel=own cannot be had, .*worker 1 .*set model\.kernel to auto"):
        recurrent_kernel.agree("own", "float32", "", worker([1, 0]), pytest.fail)


def test_other_instructions_are_said() -> None:
    said: list[str] = []
    recurrent_kernel.agree("auto", "float32", "own avx512", worker([1, 1]), said.append)
    assert len(said) == 1 and "Duplet's own (AVX512, float32) before, and are Duplet's own (AVX2, float32)" in said[0]
    for precision in ("float32", "auto"):
        on_gpus = recurrent_kernel.agree("auto", precision, "gpu", worker([0], "gpu"), pytest.fail)
        assert on_gpus == ("gpu", "MXNet's on a GPU")


def test_the_kernel_is_no_part_of_a_key_and_none_of_ours_is_for_gpus(made: Callable[..., Any]) -> None:
    keys = set()
    for kernel in ("auto", "mxnet", "own"):
        config, *_ = made("matching", model={"kernel": kernel})
        keys.add(flow.plan(config).parts[Train.name].key)
    assert len(keys) == 1
    data = config.model_dump(mode="json")
    with pytest.raises(InputError, match=r"model\.kernel=own is for CPUs.*set model\.kernel to auto"):
        check_config(data | {"train": data["train"] | {"gpus": True}}, "test")


def test_the_precision_is_part_of_a_key_but_float32_has_the_keys_of_before(made: Callable[..., Any]) -> None:
    keys = {}
    for precision in ("float32", "bfloat16", "auto"):
        config, *_ = made("matching", model={"precision": precision})
        keys[precision] = flow.plan(config).parts[Train.name]
    assert len({parts.key for parts in keys.values()}) == 3
    assert "precision" not in keys["float32"].config["model"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"train": {"gpus": True}}, "train.gpus=true"),
        ({"model": {"kernel": "mxnet"}}, "model.kernel=mxnet"),
    ],
)
def test_bfloat16_is_refused_where_others_than_ours_run(
    settings: dict[str, Any], reason: str, made: Callable[..., Any]
) -> None:
    config, *_ = made("matching", model={"precision": "bfloat16"})
    data = config.model_dump(mode="json")
    for section, values in settings.items():
        data[section] |= values
    with pytest.raises(
        InputError, match=rf"model\.precision=bfloat16 is for Duplet's own layers on CPUs, and {reason}"
    ):
        check_config(data, "test")
    data["model"]["precision"] = "auto"
    check_config(data, "test")
