"""Schedules of the target airflow: a DAG file that needs only Airflow's own operators (2.4 and later, 3 too)."""

import os
from pathlib import Path

from jobs.cron import check_command, command_of, run_command
from jobs.schedule import PARTS, Schedule
from jobs.texts import jinja, shell
from pipeline.core import atomic_files
from pipeline.core.errors import InputError

DAG = """\
{about!r}

import subprocess
from datetime import timedelta

import pendulum
from airflow import DAG

try:  # Airflow 3
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.providers.standard.sensors.bash import BashSensor
    from airflow.sdk import Asset
except ImportError:
    from airflow.datasets import Dataset as Asset
    from airflow.operators.bash import BashOperator
    from airflow.sensors.bash import BashSensor


def tell(context):
    # a task that was killed or timed out has left no verdict: people are told so
    subprocess.run(["/bin/sh", "-c", {check!r}])


with DAG(
    dag_id={dag_id!r},
    schedule={cron!r},
    start_date=pendulum.datetime({start}, tz={zone!r}),  # the schedule goes by the clock of this zone
    catchup={catchup},  # missed dates
    max_active_runs=1,  # two never overlap
    default_args={{
        "retries": {retries}, "retry_delay": timedelta(minutes=5), "execution_timeout": {timeout},
        "on_failure_callback": tell,
    }},
    tags=["duplet"],
) as dag:
    before = []
{sensor}    for name, command in {commands!r}:
        task = BashOperator(
            task_id=name,
            bash_command=command,
            append_env=True,
            skip_on_exit_code=[3],  # refused: nothing to retry, and nothing after it to be run
            outlets=[Asset({asset!r})] if name == "verdict" else [],  # what waits for a new champion begins
        )
        for one in before:
            one >> task
        before = [task]
"""
SENSOR = """\
    data = BashSensor(
        task_id="data", bash_command={command!r}, retry_exit_code=75, mode="reschedule", poke_interval=60,
        timeout={timeout_s}, execution_timeout=None,
    )
    before = [data]
"""
CHECK = """
with DAG(
    dag_id={dag_id!r},
    schedule={cron!r},
    start_date=pendulum.datetime({start}, tz={zone!r}),
    catchup=False,
    tags=["duplet"],
) as check:
    BashOperator(task_id="check", bash_command={command!r}, append_env=True)
"""
DATE = " --date {{{{ data_interval_end.in_timezone({zone!r}).strftime('%Y-%m-%dT%H:%M') }}}}"


def dag(schedule: Schedule) -> str:
    """The DAG file: a sensor for late data, a task per stage, the verdict; and a second DAG for `verdict_by`."""
    start, zone = schedule.start, schedule.zone or "UTC"
    at = f"{start.year}, {start.month}, {start.day}, {start.hour}, {start.minute}"
    begin = f"cd {shell(schedule.job.cwd)} && "
    run, date = jinja(begin + run_command(schedule)), DATE.format(zone=zone)
    commands = [(part.rpartition(",")[2], f"{run}{date} --stages {part}") for part in PARTS]
    commands.append(("verdict", f"{run}{date} --json"))  # Airflow keeps the last line for tasks to come
    sensor = check = ""
    if schedule.max_wait_min is not None:
        ready = jinja(begin + command_of(schedule, "ready")) + date
        sensor = SENSOR.format(command=ready, timeout_s=60 * max(1, schedule.max_wait_min))
    look = begin + check_command(schedule)
    if schedule.check_cron:
        dag_id = f"duplet_{schedule.name}_check"
        check = CHECK.format(dag_id=dag_id, cron=schedule.check_cron, start=at, zone=zone, command=jinja(look))
    minutes = schedule.job.walltime_min
    return DAG.format(
        about=f"The schedule {schedule.name} of {schedule.job.config}; `duplet schedule` writes and removes this file.",
        dag_id=f"duplet_{schedule.name}", cron=schedule.cron, start=at, zone=zone,
        catchup=schedule.missed == "catch_up", retries=schedule.job.retries, sensor=sensor, commands=commands,
        timeout=f"timedelta(minutes={minutes + 10})" if minutes else None, check=look,
        asset=f"duplet://{schedule.name}/champion",
    ) + check  # fmt: skip


def folder() -> Path:
    """Where Airflow looks for DAG files."""
    dags_folder = os.environ.get("AIRFLOW__CORE__DAGS_FOLDER")
    return Path(dags_folder or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "dags")).expanduser()


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
