#!/bin/bash
# A sweep on Slurm: every training is a job of the queue, with one GPU. Copy this file, change the settings, and run it on the login
# node, in a terminal that stays (tmux): it waits for the jobs and ends in their table.
#
#   bash slurm_sweep.sh SWEEP            afterwards: segtrain resume SWEEP, segtrain compare SWEEP --out report
#
# A job that is preempted, or whose time is up, writes a checkpoint, is queued again by submitit, and goes on from there.
set -euo pipefail
sweep=${1:?the folder of the sweep}

segtrain -m hydra/launcher=submitit_slurm \
  hydra.sweep.dir="$sweep" \
  hydra.launcher.partition=gpu \
  hydra.launcher.gres=gpu:1 \
  hydra.launcher.cpus_per_task=8 \
  hydra.launcher.mem_gb=32 \
  hydra.launcher.timeout_min=240 \
  hydra.launcher.max_num_timeout=5 \
  hydra.launcher.array_parallelism=16 \
  trainer.checkpoint_minutes=10 \
  loader.workers=7 \
  dataset=folder dataset.root="$PWD/data" dataset.num_classes=3 \
  loss.alpha=0,0.25,1 weighting=none,log_ratio seed=0,1,2
