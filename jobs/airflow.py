"""Schedules of the target airflow: a DAG file that needs only Airflow's own operators (2.4 and later, 3 too)."""

import os
from datetime import datetime
from pathlib import Path

from jobs.cron import run_command
from jobs.schedule import STAMP, Schedule
from pipeline.errors import InputError

DAG = '''\
"""The schedule {name} of Duplet: {config}. Written by `duplet schedule`, which overwrites it."""

from datetime import datetime, timedelta

from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator  # Airflow 3
except ImportError:
    from airflow.operators.bash import BashOperator

with DAG(
    dag_id={dag_id!r},
    schedule={cron!r},
    start_date=datetime({start}),
    catchup={catchup},  # missed dates
    max_active_runs=1,  # two never overlap
    default_args={{"retries": {retries}, "retry_delay": timedelta(minutes=5)}},
    tags=["duplet"],
) as dag:
    BashOperator(
        task_id="run",
        bash_command={command!r},
        cwd={cwd!r},
        append_env=True,
        skip_on_exit_code=[3],  # not better than the champion: nothing to retry, and nothing after it to be run
    )
'''
DATE = " --date {{ data_interval_end.strftime('%Y-%m-%dT%H:%M') }}"


def dag(schedule: Schedule) -> str:
    """The DAG file."""
    start = datetime.strptime(schedule.created, STAMP)
    command = run_command(schedule).replace("{{", "{{ '{{' }}").replace("{%", "{{ '{%' }}").replace("{#", "{{ '{#' }}")
    return DAG.format(
        name=schedule.name,
        config=repr(schedule.job.config)[1:-1].replace('"', "'"),
        dag_id=f"duplet_{schedule.name}",
        cron=schedule.cron,
        start=f"{start.year}, {start.month}, {start.day}, {start.hour}, {start.minute}",
        catchup=schedule.missed == "catch_up",
        retries=schedule.job.retries,
        command=command + DATE,
        cwd=schedule.job.cwd,
    )


def folder() -> Path:
    """Where Airflow looks for DAG files."""
    given = os.environ.get("AIRFLOW__CORE__DAGS_FOLDER")
    return Path(given) if given else Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "dags"


def need() -> None:
    """Raises InputError where there is no folder for DAG files."""
    if not folder().is_dir():
        raise InputError(
            f"no folder {folder()} for DAG files: set AIRFLOW_HOME or AIRFLOW__CORE__DAGS_FOLDER, or use --dry-run"
        )


def install(schedule: Schedule) -> str:
    """Writes the DAG file."""
    need()
    path = _path(schedule)
    try:
        path.write_text(dag(schedule), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): set AIRFLOW_HOME to your own") from None
    return str(path)


def remove(schedule: Schedule) -> None:
    """Removes the DAG file."""
    _path(schedule).unlink(missing_ok=True)


def _path(schedule: Schedule) -> Path:
    return folder() / f"duplet_{schedule.name.replace('-', '_')}.py"
