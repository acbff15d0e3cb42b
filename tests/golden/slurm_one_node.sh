#!/bin/bash
# duplet run configs/faq.yaml train.epochs=5
#SBATCH --job-name=duplet-faq-20261124-020000-1a2b
#SBATCH --output=/data/runs/jobs/faq-20261124-020000-1a2b/log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --mem=16384M
#SBATCH --time=90
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -eu
cd /home/ann/duplet

# how the training starts its ranks on all hosts: one srun task each, which meet at the first host
export DUPLET_LAUNCHER="/home/ann/duplet/.venv/bin/python -P -m pipeline.distributed.rendezvous serve \
srun --ntasks={workers} --ntasks-per-node=2 --cpus-per-task=4 --distribution=block --kill-on-bad-exit=1 \
/home/ann/duplet/.venv/bin/python -P -m pipeline.distributed.rendezvous rank"
# on the first host: the stages in order; at SIGTERM a checkpoint, and back into the queue
exec /home/ann/duplet/.venv/bin/python -P -m jobs.on_cluster /data/runs/jobs/faq-20261124-020000-1a2b
