#!/bin/bash
#SBATCH {{ ("--job-name=" ~ name) | directive }}
#SBATCH {{ ("--output=" ~ log) | directive }}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --cpus-per-task={{ threads }}
{%- if array %}
#SBATCH --array={{ array }}
#SBATCH --signal=B:USR1@120
{%- endif %}
{%- for option in options %}
#SBATCH {{ option | directive }}
{%- endfor %}

# Paths that are not absolute, in the recipe as well, are from where the study was submitted.
cd {{ directory | quoted }} || exit 1
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-{{ threads }}}"
export RAYON_NUM_THREADS="$OMP_NUM_THREADS"
program={{ program | quoted }}
run={{ run | quoted }}
{%- if not array %}

exec "$program" finish "$run"
{%- else %}

# One arm with one seed: that of line SLURM_ARRAY_TASK_ID, counted from 0.
name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {{ list | quoted }})
[ -n "$name" ] || { echo "error: no task $SLURM_ARRAY_TASK_ID in the list" >&2; exit 1; }
folder=$run/arms/$name
echo "$name: job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID on $(hostname), $(date), $OMP_NUM_THREADS threads"

saved() { ls "$folder/checkpoints" 2>/dev/null; }
before=$(saved)
worker='' told='' limit='' watch=''
# Cancelled, or preempted: SLURM itself puts back what is to go on.
trap 'told=1; kill -TERM $worker 2>/dev/null' TERM
# The time limit is near: go on in a job after this one. What cannot be stopped, as an evaluation, is killed and begins again.
trap 'told=1; limit=1; kill -TERM $worker 2>/dev/null; patience >/dev/null 2>&1 & watch=$!' USR1
patience() {
  trap 'kill $pause; exit' TERM
  sleep 100 & pause=$!
  wait $pause
  kill -0 $$ && kill -KILL $worker
}

"$program" arm "$folder" --alone{% if device %} --device {{ device }}{% endif %} </dev/null &
worker=$!
# A signal ends `wait`, not the worker.
while told=''; wait $worker; status=$?; [ -n "$told" ]; do :; done
[ -n "$watch" ] && kill $watch 2>/dev/null
[ "$status" = 130 ] && echo "$name: stopped, its state is saved"

if [ -n "$limit" ] && { [ "$status" = 130 ] || [ "$status" = 137 ]; }; then
  if [ "$(saved)" = "$before" ]; then
    echo "error: not a step was saved within the time limit of a job: give it more, with --sbatch=--time=.." >&2
    exit 1
  fi
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
{%- endif %}
