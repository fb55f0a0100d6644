#!/usr/bin/env bash
# One run as a SLURM job that goes on by itself after preemption and at its time limit:
#
#     sbatch docker/slurm.sh --env ant --seed 1
#
# where td3-brax is on the PATH: activate its environment first, or put the module load lines of your site here.
#SBATCH --job-name=td3-brax
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# A signal to this script (B:) 120 s before the time limit: a chunk ends within that, and the state is saved. Not
# SIGTERM, which is how SLURM preempts (and requeues by itself) or cancels (and must not requeue).
#SBATCH --signal=B:USR1@120

# A requeued job keeps its id, so the same folder goes on.
td3-brax train --out "runs/slurm-$SLURM_JOB_ID" --resume auto "$@" &
run=$!
trap 'kill -s TERM "$run"' TERM
trap 'kill -s TERM "$run"; late=1' USR1
while [[ -n $(jobs -pr) ]]; do wait "$run"; done # a signal ends a wait early
wait "$run"
code=$?
if [[ -n ${late:-} ]] && ((code == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
