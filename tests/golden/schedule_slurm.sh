#!/bin/bash
# duplet schedule faq: 0 2 * * *
#SBATCH --job-name=duplet-schedule-faq
#SBATCH --output=/data/runs/schedules/faq/log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:8
#SBATCH --time=120
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -eu
cd /home/ann/duplet

# how the training starts its ranks on all hosts: one srun task each, which meet at the first host
export DUPLET_LAUNCHER="/home/ann/duplet/.venv/bin/python -P -m pipeline.distributed.rendezvous serve \
srun --ntasks={workers} --ntasks-per-node=8 --cpus-per-task=1 --distribution=block --kill-on-bad-exit=1 \
/home/ann/duplet/.venv/bin/python -P -m pipeline.distributed.rendezvous rank"
# the next link first, so that a failure breaks no chain; a requeued link has handed it over already, and one
# that a person submits with options, such as --date, is none
if [ -e /data/runs/schedules/faq/schedule.json ] && [ -z "${DUPLET_SCRONTAB:-}" ] && [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] && [ $# -eq 0 ]; then
    waits=no
    for pause in 0 15 30 60 120 240; do  # the controller may be busy: the work does not depend on it
        sleep "$pause"
        if sbatch --begin="$(/home/ann/duplet/.venv/bin/python -P -m jobs.dates '0 2 * * *' Europe/Berlin)" --dependency=singleton /data/runs/schedules/faq/schedule.sh; then waits=yes; break; fi
    done
    [ "$waits" = yes ] || export DUPLET_CHAIN_BROKEN=1  # tried again after the work
fi
exec /home/ann/duplet/.venv/bin/python -P -m pipeline.cli schedule run faq --root /data/runs "$@"
