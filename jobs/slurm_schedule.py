"""Schedules of the target slurm: an entry for `scrontab` where the site has it, else a chain of jobs.

Each link of the chain hands over the next one, to begin at the next date, before it works; `--dependency=singleton`
keeps two from running at once. The allocation is the training's own.
"""

import shutil
from collections.abc import Callable

from jobs import clock, dates, programs, slurm, zones
from jobs.cron import alone, check_command, markers, run_command, with_block
from jobs.schedule import LOG, SCHEDULE, Schedule
from jobs.texts import cron_command, shell
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, TryAgain
from pipeline.core.progress import Say

SCRIPT = "schedule.sh"
PAUSES_S = (0, 15, 30, 60, 120, 240)  # before each try to hand over the next link
BROKEN = "DUPLET_CHAIN_BROKEN"  # set where none was taken before the work
MENDING_S = 4000.0  # how long it is tried after the work, unless the wall time comes first: more than an hour


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
    path, schedule_file = shell(str(schedule.folder / SCRIPT)), shell(str(schedule.folder / SCHEDULE))
    begin = shell(job.python, "-P", "-m", "jobs.dates", schedule.cron, *([schedule.zone] if schedule.zone else []))
    pauses = " ".join(str(pause) for pause in PAUSES_S)
    return "\n".join([
        "#!/bin/bash",
        f"# duplet schedule {schedule.name}: {schedule.cron}",
        *(f"#SBATCH {option}" for option in options(schedule)),
        "",
        *slurm.surroundings(job),
        "# the next link first, so that a failure breaks no chain; a requeued link has handed it over already, and one",
        "# that a person submits with options, such as --date, is none",
        f"if [ -e {schedule_file} ] && [ -z \"${{DUPLET_SCRONTAB:-}}\" ] && "
        '[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] && [ $# -eq 0 ]; then',
        "    waits=no",
        f"    for pause in {pauses}; do  # the controller may be busy: the work does not depend on it",
        '        sleep "$pause"',
        f'        if sbatch --begin="$({begin})" --dependency=singleton {path}; then waits=yes; break; fi',
        "    done",
        f'    [ "$waits" = yes ] || export {BROKEN}=1  # tried again after the work',
        *_check_job(schedule),
        "fi",
        f'exec {run_command(schedule)} "$@"',
        "",
    ])  # fmt: skip


def _check_job(schedule: Schedule) -> list[str]:
    """Lines that hand over a small job for `duplet schedule check`; they stop nothing."""
    if schedule.check_cron is None:
        return []
    job = schedule.job
    begin = shell(
        job.python, "-P", "-m", "jobs.dates", schedule.check_cron, *([schedule.zone] if schedule.zone else [])
    )
    small = shell(*_small(schedule), f"--wrap={check_command(schedule)}")
    return [f'    sbatch --begin="$({begin})" {small} || echo "no check is handed over for this date" >&2']


def _small(schedule: Schedule) -> list[str]:
    """Options of the job that checks: one task for ten minutes."""
    slurm_settings = schedule.job.slurm
    named = {"partition": slurm_settings.partition, "account": slurm_settings.account, "qos": slurm_settings.qos}
    return [
        f"--job-name=duplet-check-{schedule.name}", "--dependency=singleton", "--ntasks=1", "--time=10",
        f"--chdir={schedule.job.cwd}", f"--output={schedule.folder / LOG}".replace("%", "%%"), "--open-mode=append",
        *(f"--{name}={value}" for name, value in named.items() if value),
    ]  # fmt: skip


def scrontab_block(schedule: Schedule) -> str:
    """The schedule's part of a scrontab."""
    first, last = markers(schedule.name)
    command = cron_command(shell("env", "DUPLET_SCRONTAB=1", str(schedule.folder / SCRIPT)))
    lines = [*(f"#SCRON {option}" for option in options(schedule)), f"{schedule.cron} {command}"]
    if schedule.check_cron:
        small = [option for option in _small(schedule) if not option.startswith("--dependency")]
        lines += [*(f"#SCRON {slurm.quoted(option)}" for option in small)]
        lines.append(f"{schedule.check_cron} {cron_command(check_command(schedule))}")
    return "\n".join([first, *lines, last, ""])


def has_scrontab() -> bool:
    """Whether the site has scrontab, and has switched it on."""
    if shutil.which("scrontab") is None:
        return False
    done = programs.run("scrontab", "-l")
    return done.returncode == 0 or "no crontab" in done.stderr.lower()


def takes_scrontab(schedule: Schedule) -> bool:
    """Whether the site has scrontab, and would read this schedule as it is meant."""
    own = schedule.zone is None or zones.same(schedule.zone, zones.system())
    return own and not dates.means_two_things(schedule.cron) and has_scrontab()


def install(schedule: Schedule) -> str:
    """Hands the schedule over; what it was handed over as."""
    path = schedule.folder / SCRIPT
    atomic_files.write_text(path, script(schedule), 0o700)
    waiting = links(schedule)
    if takes_scrontab(schedule):
        _scrontab(schedule, scrontab_block(schedule))
        handle = "scrontab"
    else:
        handle = _link(schedule)
    if waiting:  # of the schedule as it was; not before the new one is sure
        slurm.CLIENT.run("scancel", "--state=PENDING", *waiting)
    return handle


def links(schedule: Schedule, also_running: bool = False) -> list[str]:
    """SLURM's names for the jobs of a chain that wait for their date; `also_running`: and for those at work."""
    states = "PENDING,RUNNING,COMPLETING,SUSPENDED" if also_running else "PENDING"
    output = slurm.CLIENT.run(
        "squeue", "--noheader", "--me", f"--name={job_name(schedule)}", f"--states={states}", "--format=%i"
    )
    return output.split()


def mend(schedule: Schedule, say: Say, pause: Callable[[float], None]) -> str | None:
    """Hands the next link over where the script could not; None where one waits, else why there is none.

    Args:
        pause: waits for so many seconds.
    """
    left, wait_s = MENDING_S, 30.0
    while True:
        try:
            if not links(schedule):
                say(f"the next link is {_link(schedule)}")
            return None
        except DupletError as error:
            if left <= 0 or not isinstance(error, TryAgain):
                again = "until `duplet schedule` hands it over again"
                return f"SLURM takes no next link, so nothing comes any more {again}: {error}"
        say(f"SLURM takes no next link yet: trying again in {wait_s:.0f} s")
        pause(wait_s)
        left, wait_s = left - wait_s, min(600.0, 2 * wait_s)


def _link(schedule: Schedule) -> str:
    begin = dates.begin(schedule.cron, schedule.zone, clock.now())
    job = slurm.handed_over(schedule.folder / SCRIPT, f"--begin={begin}", "--dependency=singleton")
    return f"SLURM job {job}"


def remove(schedule: Schedule) -> None:
    """Takes the entry out, and links of a chain that wait; what is running goes on."""
    if has_scrontab():
        _scrontab(schedule, "")
    if waiting := links(schedule):
        slurm.CLIENT.run("scancel", "--state=PENDING", *waiting)


def _scrontab(schedule: Schedule, block: str) -> None:
    """Raises InputError or TryAgain where the table cannot be read or written; it is never written without a look."""
    with alone():
        table = slurm.CLIENT.run("scrontab", "-l", allow="no crontab")
        slurm.CLIENT.run("scrontab", "-", stdin=with_block(table, schedule.name, block))
