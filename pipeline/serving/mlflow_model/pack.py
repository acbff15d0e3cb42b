"""An exported folder as an MLflow model: a script (models from code, so no pickle), the few modules it runs, and pins.

The modules are copies of this package's own, found by following imports, under a name of their own
(`duplet_model_HASH`), so that an environment may hold several models, and Duplet too, without one hiding another.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.plugins import part
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.serving.mlflow_model.entry import open_model, predict
from pipeline.serving.model_folder import read_config

ENTRY = "pipeline.serving.mlflow_model.entry"
HOME = Path(__file__).resolve().parents[3]
ARTIFACT = "model"  # the exported folder within the MLflow model
NEEDED = ("mlflow", "numpy", "onnxruntime", "pydantic", "pyyaml")
FOR_TOKENIZER = {"sentencepiece": ("sentencepiece",), "jieba": ("jieba", "setuptools")}

SCRIPT = '''"""Predicts with ONNX Runtime. Written by Duplet; MLflow runs it. Needs no MXNet."""

from pathlib import Path

import mlflow
import pandas
from mlflow.exceptions import MlflowException

from PACKAGE.core.errors import DupletError
from PACKAGE.serving.mlflow_model.entry import open_model, predict


class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = open_model(Path(context.artifacts["model"]))

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        try:
            return pandas.DataFrame(predict(self.model, model_input.to_dict("records")))
        except DupletError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


mlflow.models.set_model(Model())
'''


class Packed(NamedTuple):
    """What `tracking.log_pyfunc` hands to MLflow."""

    script: Path
    code: Path  # the folder of modules
    artifacts: dict[str, str]
    requirements: list[str]  # pinned, mxnet not among them
    example: list[dict[str, Any]]
    answers: list[dict[str, Any]]  # to the example, for the signature
    metadata: dict[str, Any]


def pack(exported: Path, into: Path) -> Packed:
    """Writes script and modules into the folder `into`.

    Raises:
        InputError: not an exported folder, of a task that predicts on MXNet alone, or with a part of another package.
    """
    if not any(exported.glob("*.onnx")):
        raise InputError(f"{exported} is not an exported model: run `duplet export`")
    for what, package in read_config(exported).model_packages.items():
        raise InputError(f"its {what} comes from the package {package}, which a model in MLflow does not carry")
    modules = modules_of(ENTRY)
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    copy = f"duplet_model_{atomic_files.digest(texts)[:8]}"
    for name, text in texts.items():
        path = into / modules[name].relative_to(HOME)
        path = into / copy / path.relative_to(into / "pipeline")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"(?m)^(\s*(?:from|import)) pipeline\b", rf"\1 {copy}", text), encoding="utf-8")
    script = into / "model.py"
    script.write_text(SCRIPT.replace("PACKAGE", copy), encoding="utf-8")
    model = open_model(exported)
    served = model.config.spec.onnx
    assert served is not None, "open_model opens no other"
    if isinstance(served.example, str):
        example: list[dict[str, Any]] = part(served.example)(model)
    else:
        example = [dict(zip(model.fields, texts)) for texts in served.example]
    kind = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))["kind"]
    pins = manifest.versions(*NEEDED, *FOR_TOKENIZER.get(kind, ()), *served.needs)
    source = json.loads((exported / manifest.NAME).read_text(encoding="utf-8"))
    return Packed(
        script=script,
        code=into / copy,
        artifacts={ARTIFACT: str(exported)},
        requirements=[f"{name}=={version}" for name, version in pins.items()],
        example=example,
        answers=predict(model, example),
        metadata={"duplet.key": source["key"], "duplet.task": model.config.task},
    )


def modules_of(entry: str) -> dict[str, Path]:
    """The modules of this package that one imports when it is loaded, itself and their packages included."""
    modules: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if name in modules or path is None:
            continue
        modules[name] = path
        waiting += [name.rpartition(".")[0]] if "." in name else []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # the module's own level alone
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipeline":
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return dict(sorted(modules.items()))


def _path_of(module: str) -> Path | None:
    path = HOME.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
