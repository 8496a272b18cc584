#!/bin/bash
# `experiment --submit slurm` against a real SLURM of one node, which setup.sh starts: whole, requeued, preempted, cut by its
# time limit, cancelled, and with an arm that fails, a study ends as it does without SLURM, to the last bit.
#   check.sh [HELDOUT]    the binary; target/debug/heldout by default. Ends with 77 and says why if SLURM cannot be had here.
set -u
tests=$(cd "$(dirname "$0")" && pwd)
heldout=$(realpath "${1:-$tests/../../../../target/debug/heldout}")
place=$(mktemp -d)
. "$tests/setup.sh" "$place/slurm"
if [ -n "$skipped" ]; then
  echo "skipped: $skipped"
  exit 77
fi
trap 'scancel --me; sleep 2; stop_slurm' EXIT
export OMP_NUM_THREADS=1 RUST_BACKTRACE=0
folder="$place/it's a \"folder\" #1, 100%"
mkdir "$folder"
cd "$folder" || exit 1

{
  sed -n '/^const TINY/,/^"#;/p' "$tests/../binary.rs" | sed '1d;$d' | sed 's/^seeds = .*/seeds = [0, 1]/; /^arms = /d'
  echo '[arms.base]
[arms.few]
data.split.n_train = 16
[arms.control]
adapter = { kind = "control_net", base = { arm = "base" }, hint = { kind = "canny" } }'
} >tiny.toml

fail() {
  echo "FAILED: $*" >&2
  tail -n 15 run*/submit/*/log/* >&2
  exit 1
}

# Waits for a condition, a command, at most so many seconds.
wait_for() {
  local seconds=$1
  shift
  for _ in $(seq "$((seconds * 2))"); do
    "$@" && return 0
    sleep 0.5
  done
  fail "not within $seconds s: $*"
}

submitted() { "$heldout" experiment tiny.toml --submit slurm "$@" >said 2>&1 || fail "$(cat said)"; }
queue_empty() { [ -z "$(squeue --me --noheader)" ]; }
has_step() { ls "$1/checkpoints" 2>/dev/null | grep -q "^step-"; }

# Two runs are the same in all that no clock says.
same() {
  local arm last
  cmp "$1/metrics.jsonl" "$2/metrics.jsonl" || fail "records of $1 and $2 differ"
  diff <(sed -E '/"(seconds|peak_rss_bytes)"/d' "$1/study.json") <(sed -E '/"(seconds|peak_rss_bytes)"/d' "$2/study.json") ||
    fail "results of $1 and $2 differ"
  for arm in "$1"/arms/*/; do
    arm=$(basename "$arm")
    last=$(ls "$1/arms/$arm/checkpoints" | grep step- | tail -n 1)
    for file in weights update; do
      cmp "$1/arms/$arm/checkpoints/$last/$file.safetensors" "$2/arms/$arm/checkpoints/$last/$file.safetensors" ||
        fail "$file of $arm differ between $1 and $2"
    done
  done
  [ -s "$2/report.html" ] || fail "$2 has no report"
}

echo "--- a study from submission to report"
"$heldout" experiment tiny.toml --out whole >said 2>&1 || fail "$(cat said)"
submitted --out run --sbatch=--comment="it's \"one\" #"
cat said
grep -q 'job 1: 4 tasks$' said && grep -q 'tasks, after' said && grep -q 'scancel' said || fail "$(cat said)"
submitted --out run
[ "$(grep -c 'waits or runs already' said)" = 6 ] || fail "submitted twice: $(cat said)"
wait_for 180 queue_empty
same whole run
submitted --out run
grep -q 'report.html' said || fail "nothing was left to do: $(cat said)"

echo "--- put back in the middle, by hand and by a job that goes before"
# About a minute for a task, so that SLURM has the time to preempt it.
long=(--set train.steps=1500 --set monitor.every=100 --set validation.every=100)
"$heldout" experiment tiny.toml --out whole-long "${long[@]}" >said 2>&1 || fail "$(cat said)"
submitted --out run-long "${long[@]}"
job=$(sed -n 's/^job \([0-9]*\): 4 tasks$/\1/p' said)
wait_for 120 has_step run-long/arms/base-seed0
scontrol requeue "${job}_0" || fail "not put back"
wait_for 60 grep -q 'base-seed0: stopped' run-long/submit/1/log/array-1_0.log
wait_for 120 has_step run-long/arms/base-seed1
sbatch --parsable --partition=high --exclusive --output=/dev/null --wrap 'sleep 5' >/dev/null
wait_for 120 grep -q 'base-seed1: stopped' run-long/submit/1/log/array-1_2.log
wait_for 900 queue_empty
for number in 0 2; do
  grep -q 'resumed after step' "run-long/submit/1/log/array-1_$number.log" || fail "task $number began anew"
done
same whole-long run-long

echo "--- cut by its time limit, again and again"
"$heldout" experiment tiny.toml --out whole-limit "${long[@]}" --seed 0 >said 2>&1 || fail "$(cat said)"
submitted --out run-limit "${long[@]}" --seed 0 --sbatch=--time=1 --sbatch=--signal=B:USR1@15
wait_for 1500 queue_empty
[ "$(cat run-limit/submit/1/log/array-*.log | grep -c 'resumed after step')" -ge 2 ] || fail "it was not cut"
same whole-limit run-limit

echo "--- an evaluation that is longer than the time limit is a failure that says so"
submitted --out run-short --seed 0 --set train.steps=10 --set sample.samples=50000 --sbatch=--time=1 --sbatch=--signal=B:USR1@1
wait_for 400 queue_empty
grep -qi 'time limit' run-short/study.json && [ "$(grep -c '"f_mem":' run-short/study.json)" = 0 ] ||
  fail "$(cat run-short/study.json)"

echo "--- one task cancelled; what is built on it has no result; submitted again, it goes on"
submitted --out run-cut "${long[@]}"
job=$(sed -n 's/^job \([0-9]*\): 4 tasks$/\1/p' said)
wait_for 120 has_step run-cut/arms/base-seed0
scancel "${job}_0"
wait_for 900 queue_empty
grep -q 'CANCELLED' run-cut/study.json && grep -q 'its base base seed 0 has no result' run-cut/study.json ||
  fail "$(cat run-cut/study.json)"
[ "$(grep -c '"f_mem":' run-cut/study.json)" = 4 ] || fail "the others are not there"
submitted --out run-cut "${long[@]}"
grep -q 'left out: 4 that are done' said || fail "$(cat said)"
wait_for 300 queue_empty
same whole-long run-cut

echo "--- all cancelled"
submitted --out run-none "${long[@]}"
wait_for 120 has_step run-none/arms/base-seed0
eval "$(sed -n 's/^cancel: *//p' said)"
wait_for 60 queue_empty
sleep 5
queue_empty && [ ! -e run-none/study.json ] || fail "it came back"

echo "--- what SLURM refuses is said, and nothing waits"
"$heldout" experiment tiny.toml --submit slurm --out run-refused --sbatch=--partition=nonesuch >said 2>&1 && fail "not refused"
grep -q 'sbatch: .*nonesuch\|sbatch: .*partition' said || fail "$(cat said)"
queue_empty && [ ! -e run-refused/submit/1 ] || fail "something is left"
echo "all is well; $place may be deleted"
