#!/usr/bin/env bash
# `make test-airflow`: the real Airflow, in the environment .airflow of its own, loads a schedule's DAG and runs it once.
# The task it starts is the real `duplet schedule run`, over a few hundred small pairs.
set -euo pipefail
cd -P "$(dirname "$0")/../.."
environment=${AIRFLOW_ENVIRONMENT:-$PWD/.airflow}
fail() { echo "test-airflow: $1" >&2; exit 1; }

if [ ! -x "$environment/bin/airflow" ]; then
    echo "test-airflow: installing Airflow into $environment (once)" >&2
    "${DUPLET_PYTHON:-python3.11}" -m venv "$environment"
    "$environment/bin/pip" --disable-pip-version-check install --quiet "apache-airflow>=2.4" ||
        fail "Airflow could not be installed"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__LOGGING__LOGGING_LEVEL=INFO
export AIRFLOW__CORE__UNIT_TEST_MODE=False NO_PROXY='*' OMP_NUM_THREADS=1
mkdir -p "$AIRFLOW_HOME/dags"
.venv/bin/python - "$work" <<'PYTHON'
import json, random, sys
words, rng = [f"w{i}" for i in range(12)], random.Random(0)
with open(f"{sys.argv[1]}/pairs.jsonl", "w") as file:
    for i in range(240):
        chosen = rng.sample(words, 5)
        file.write(json.dumps({"qid": f"q{i}", "query": " ".join(chosen), "document": " ".join(chosen[::-1])}) + "\n")
PYTHON
cat >"$work/small.yaml" <<YAML
root: $work/runs
ingest: {source: {format: jsonl, path: $work/pairs.jsonl, columns: {query_id: qid}}}
tokenize: {max_tokens: {query: 8, document: 8}, min_count: 1}
model: {embedding: 8, hidden: 8}
train: {epochs: 1, max_pairs_per_update: 16, threads_per_worker: 1, schedule: {warmup_updates: 2}}
evaluate: {bootstrap_samples: 20}
tracking: {system_metrics: false}
YAML
name=$(.venv/bin/duplet schedule "$work/small.yaml" --cron "0 2 * * *" --zone UTC --target airflow --retries 1 | cut -d: -f1)
run() { "$environment/bin/airflow" "$@" 2>>"$work/said"; }
run db migrate >>"$work/said" || { tail "$work/said" >&2; fail "Airflow's database could not be made"; }
"$environment/bin/python" - "$AIRFLOW_HOME/dags" 2>>"$work/said" <<'PYTHON' || { tail "$work/said" >&2; fail "the DAG does not load"; }
import importlib.util, pathlib, sys
[path] = pathlib.Path(sys.argv[1]).glob("*.py")
spec = importlib.util.spec_from_file_location("dag", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dag = module.dag
assert dag.dag_id.startswith("duplet_small-") and dag.max_active_runs == 1 and dag.catchup is False, dag
assert [task.task_id for task in dag.tasks] == ["ingest", "tokenize", "train", "verdict"], dag.tasks
assert {task.retries for task in dag.tasks} == {1}
PYTHON
day=$(date --date=tomorrow +%F)  # a date before the schedule was made has no run
run dags test "duplet_$name" "${day}T02:00:00+00:00" >>"$work/said" || { tail -n 30 "$work/said" >&2; fail "the DAG's run failed"; }
verdict=$(cat "$work/runs/schedules/$name/verdicts.jsonl") || { tail -n 30 "$work/said" >&2; fail "no verdict was left"; }
case $verdict in
*"\"due\": \"${day}T02:00\""*'"exit_code": 0'*) echo "test-airflow: Airflow $("$environment/bin/airflow" version 2>/dev/null | tail -n 1): $verdict" ;;
*) fail "unexpected verdict: $verdict" ;;
esac
.venv/bin/duplet schedule remove small --root "$work/runs"
[ -z "$(ls "$AIRFLOW_HOME"/dags/*.py 2>/dev/null)" ] || fail "the DAG file is still there"
