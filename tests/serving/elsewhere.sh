#!/usr/bin/env bash
# `make test-serve`: MLflow models in environments made of nothing but the requirements that they were logged with.
# A classifier and a tagger are trained, and each one's requirements.txt is installed into an environment of its own.
set -euo pipefail
cd -P "$(dirname "$0")/../.."
fail() { echo "test-serve: $1" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 MLFLOW_DISABLE_TELEMETRY=true NO_PROXY='*'
unset PYTHONPATH MLFLOW_TRACKING_URI || true

for task in classification tagging; do
    of=$([ $task = tagging ] && echo kinds || echo package)
    cat >"$work/$task.yaml" <<YAML
task: $task
root: $work/runs
ingest: {source: {format: python, of: $of, max_records: 300}, split: {valid: 0.2, test: 0.2}}
model: {embedding: 12, hidden: 8}
tagging: {characters: true, crf: true}
train: {epochs: 1, max_pairs_per_update: 16, threads_per_worker: 1, schedule: {warmup_updates: 2}}
evaluate: {bootstrap_samples: 20}
tracking: {system_metrics: false}
YAML
    .venv/bin/duplet run "$work/$task.yaml" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "$task was not trained"; }
    grep -l "duplet.task: $task" "$work"/runs/mlflow-artifacts/models/m-*/artifacts/MLmodel >"$work/found" ||
        { cat "$work/said" >&2; fail "no $task model was logged"; }
    model=$(dirname "$(cat "$work/found")")
    .venv/bin/uv venv --quiet --python "${DUPLET_PYTHON:-.venv/bin/python}" "$work/env-$task"
    .venv/bin/uv pip install --quiet --python "$work/env-$task/bin/python" -r "$model/requirements.txt" ||
        fail "the requirements of the $task model could not be installed"
    trained=$(dirname "$(ls "$work"/runs/train/*/config.json | xargs grep -l "\"task\": *\"$task\"")")
    echo '{"text": "def read ( path ) : return open ( path )"}' >"$work/row.jsonl"
    .venv/bin/duplet predict "$trained" --backend mxnet --input "$work/row.jsonl" --output "$work/wanted.jsonl" >"$work/said" 2>&1 ||
        { cat "$work/said" >&2; fail "MXNet did not predict"; }
    (cd "$work" && "env-$task/bin/python" - "$model" wanted.jsonl) <<'PYTHON' || fail "the $task model does not do what it should"
import importlib.util, json, sys
for name in ("mxnet", "gluonnlp", "horovod", "pipeline"):
    assert importlib.util.find_spec(name) is None, f"{name} is in the environment"
import mlflow, pandas
[wanted] = [json.loads(line) for line in open(sys.argv[2])]
[found] = mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.DataFrame([{"text": wanted["text"]}])).to_dict("records")
if "tags" in found:
    assert found["tags"] == wanted["tags"], (found, wanted)
else:
    for name, chance in wanted["probabilities"].items():
        assert abs(found["probabilities"][name] - chance) < 1e-4, (found, wanted)
print("test-serve:", json.dumps(found)[:150])
PYTHON
    echo "test-serve: $task: $(grep -c == "$model/requirements.txt") requirements, $("$work/env-$task/bin/python" -c 'import mlflow; print("mlflow", mlflow.__version__)')"
done
