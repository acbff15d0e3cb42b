"""Schedules of the target airflow: a DAG file that needs only Airflow's own operators (2.4 and later, 3 too)."""

import os
from pathlib import Path

from jobs.cron import run_command
from jobs.schedule import Schedule
from jobs.texts import jinja, shell
from pipeline.core import atomic_files
from pipeline.core.errors import InputError

DAG = """\
{about!r}

from datetime import timedelta

import pendulum
from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator  # Airflow 3
except ImportError:
    from airflow.operators.bash import BashOperator

with DAG(
    dag_id={dag_id!r},
    schedule={cron!r},
    start_date=pendulum.datetime({start}, tz={zone!r}),  # the schedule goes by the clock of this zone
    catchup={catchup},  # missed dates
    max_active_runs=1,  # two never overlap
    default_args={{"retries": {retries}, "retry_delay": timedelta(minutes=5)}},
    tags=["duplet"],
) as dag:
    BashOperator(
        task_id="run",
        bash_command={command!r},
        append_env=True,
        skip_on_exit_code=[3],  # not better than the champion: nothing to retry, and nothing after it to be run
    )
"""
DATE = " --date {{{{ data_interval_end.in_timezone({zone!r}).strftime('%Y-%m-%dT%H:%M') }}}}"


def dag(schedule: Schedule) -> str:
    """The DAG file."""
    start, zone = schedule.start, schedule.zone or "UTC"
    command = jinja(f"cd {shell(schedule.job.cwd)} && {run_command(schedule)}")
    return DAG.format(
        about=f"The schedule {schedule.name} of {schedule.job.config}; `duplet schedule` writes and removes this file.",
        dag_id=f"duplet_{schedule.name}",
        cron=schedule.cron,
        start=f"{start.year}, {start.month}, {start.day}, {start.hour}, {start.minute}",
        catchup=schedule.missed == "catch_up",
        retries=schedule.job.retries,
        zone=zone,
        command=command + DATE.format(zone=zone),
    )


def folder() -> Path:
    """Where Airflow looks for DAG files."""
    given = os.environ.get("AIRFLOW__CORE__DAGS_FOLDER")
    return Path(given or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "dags")).expanduser()


def need() -> None:
    """Raises InputError where there is no folder for DAG files."""
    if not folder().is_dir():
        raise InputError(
            f"no folder {folder()} for DAG files: set AIRFLOW_HOME or AIRFLOW__CORE__DAGS_FOLDER, or use --dry-run"
        )


def install(schedule: Schedule) -> str:
    """Writes the DAG file."""
    need()
    path = folder() / file_name(schedule)
    try:
        atomic_files.write_text(path, dag(schedule))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): set AIRFLOW_HOME to your own") from None
    return str(path)


def remove(schedule: Schedule) -> None:
    """Removes the DAG file."""
    (folder() / file_name(schedule)).unlink(missing_ok=True)


def file_name(schedule: Schedule) -> str:
    """Of the DAG file; Python's names have no hyphens."""
    return f"duplet_{schedule.name.replace('-', '_')}.py"
