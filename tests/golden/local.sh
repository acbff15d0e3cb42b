#!/bin/sh
# Duplet job faq-20261124-020000-1a2b: my faq on this machine, 2 to 8 workers, 5 restarts at most.
# `duplet submit` starts this in a session of its own, so that it outlives the terminal.
cd /home/ann/duplet || exit 2
exec /home/ann/duplet/.venv/bin/python -P -m jobs.supervise '/data/my runs/jobs/faq-20261124-020000-1a2b'
# which runs, and after a failure runs again:
#   duplet run '/data/my runs/jobs/faq-20261124-020000-1a2b/config.yaml' train.epochs=5 'name="my faq"' 'root="/data/my runs"' train.workers=8 train.gpus=false train.threads_per_worker=4
