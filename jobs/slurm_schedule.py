"""Schedules of the target slurm: an entry for `scrontab` where the site has it, else a chain of jobs.

Each link of the chain hands over the next one, to begin at the next date, before it works; `--dependency=singleton`
keeps two from running at once. The allocation is the training's own.
"""

import shlex
import shutil
import subprocess
from datetime import datetime

from jobs import dates, slurm
from jobs.cron import markers, run_command, with_block
from jobs.schedule import LOG, SCHEDULE, Schedule
from pipeline.errors import InputError

SCRIPT = "schedule.sh"


def job_name(schedule: Schedule) -> str:
    """The name that all links of a chain share."""
    return f"duplet-schedule-{schedule.name}"


def options(schedule: Schedule) -> list[str]:
    """As of a job's script, with the schedule's own name and log."""
    own = [
        f"--job-name={job_name(schedule)}",
        f"--output={slurm.quoted(str(schedule.folder / LOG).replace('%', '%%'))}",
    ]
    rest = [line for line in slurm.options(schedule.job) if not line.startswith(("--job-name=", "--output="))]
    return own + rest


def script(schedule: Schedule) -> str:
    """The batch script of one date, which also hands over the next link of a chain."""
    job = schedule.job
    path, python = shlex.quote(str(schedule.folder / SCRIPT)), shlex.quote(job.python)
    return "\n".join([
        "#!/bin/bash",
        f"# duplet schedule {schedule.name}: {schedule.cron}",
        *(f"#SBATCH {option}" for option in options(schedule)),
        "",
        *slurm.surroundings(job),
        "# the next link first, so that a failure breaks no chain; a requeued link has handed it over already",
        f"if [ -e {shlex.quote(str(schedule.folder / SCHEDULE))} ] && [ -z \"${{DUPLET_SCRONTAB:-}}\" ] && "
        '[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then',
        f'    sbatch --begin="$({python} -P -m jobs.dates {shlex.quote(schedule.cron)})" --dependency=singleton {path}',
        "fi",
        f"exec {run_command(schedule)}",
        "",
    ])  # fmt: skip


def scrontab_block(schedule: Schedule) -> str:
    """The schedule's part of a scrontab."""
    first, last = markers(schedule.name)
    path = shlex.quote(str(schedule.folder / SCRIPT))
    lines = [f"#SCRON {option}" for option in options(schedule)]
    return "\n".join([first, *lines, f"{schedule.cron} env DUPLET_SCRONTAB=1 {path}", last, ""])


def has_scrontab() -> bool:
    """Whether the site has scrontab, and has switched it on."""
    if shutil.which("scrontab") is None:
        return False
    said = subprocess.run(["scrontab", "-l"], capture_output=True, text=True)
    return said.returncode == 0 or "no crontab" in said.stderr.lower()


def install(schedule: Schedule) -> str:
    """Hands the schedule over; what it was handed over as."""
    path = schedule.folder / SCRIPT
    path.write_text(script(schedule), encoding="utf-8")
    path.chmod(0o700)
    if has_scrontab():
        _scrontab(schedule, scrontab_block(schedule))
        return "scrontab"
    remove(schedule)  # the waiting link of a schedule of the same name
    begin = dates.following(schedule.cron, datetime.now())
    said = slurm.CLIENT.run(
        "sbatch", "--parsable", f"--begin={begin:%Y-%m-%dT%H:%M:%S}", "--dependency=singleton", str(path)
    )
    return f"SLURM job {said.strip().split(';')[0]}"


def remove(schedule: Schedule) -> None:
    """Takes the entry out, and links of a chain that wait; what is running goes on."""
    if has_scrontab():
        _scrontab(schedule, "")
    else:
        slurm.CLIENT.run("scancel", f"--name={job_name(schedule)}", "--state=PENDING", "--me")


def _scrontab(schedule: Schedule, block: str) -> None:
    said = subprocess.run(["scrontab", "-l"], capture_output=True, text=True)
    table = with_block(said.stdout if said.returncode == 0 else "", schedule.name, block)
    done = subprocess.run(["scrontab", "-"], input=table, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"scrontab refuses ({' '.join(done.stderr.split())}): mend what it names and try again")
