#!/bin/bash
# Starts a SLURM of one node, as the user who calls it, from Debian's packages slurm-wlm and munge.
# All it writes, its processes' numbers too, is in the folder that is its argument.
#   . setup.sh FOLDER     start it, and point SLURM's commands at it in this shell; sets `skipped` if it cannot
#   stop_slurm            end it
slurm_folder=$(realpath "$1")
skipped=

for program in slurmctld slurmd sbatch munged; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || skipped="no $program: apt-get install slurm-wlm munge"
done

start_slurm() {
  local user host cores memory port
  user=$(id -un) host=$(hostname -s) cores=$(nproc) port=$((20000 + RANDOM % 20000))
  memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
  mkdir -p "$slurm_folder"/{state,spool,munge}
  chmod 700 "$slurm_folder/munge"
  head -c 128 /dev/urandom >"$slurm_folder/munge/key"
  chmod 400 "$slurm_folder/munge/key"
  # Requeued jobs wait until old credentials are invalid: two minutes, unless these live for a shorter time.
  # A grace before the end of a preempted job, and a short patience with one that was told to stop.
  cat >"$slurm_folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$slurm_folder/munge/socket,cred_expire=5
StateSaveLocation=$slurm_folder/state
SlurmdSpoolDir=$slurm_folder/spool
SlurmctldPidFile=$slurm_folder/slurmctld.pid
SlurmdPidFile=$slurm_folder/slurmd.pid
SlurmctldLogFile=$slurm_folder/slurmctld.log
SlurmdLogFile=$slurm_folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
OverTimeLimit=0
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$((memory * 9 / 10)) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=2
END
  # Newer versions look for control groups unless they are told that there are none.
  case $(slurmd -V) in
    *' '2[0-2].* | *' '23.02*) ;;
    *) echo 'CgroupPlugin=disabled' >"$slurm_folder/cgroup.conf" ;;
  esac
  export SLURM_CONF=$slurm_folder/slurm.conf
  munged --force --key-file="$slurm_folder/munge/key" --socket="$slurm_folder/munge/socket" \
    --log-file="$slurm_folder/munge/log" --pid-file="$slurm_folder/munge/pid" --seed-file="$slurm_folder/munge/seed" || return
  slurmctld -c || return
  slurmd -c || return
  for _ in $(seq 60); do
    [ "$(sinfo --noheader --partition=low --format=%T 2>/dev/null)" = idle ] && return 0
    sleep 0.5
  done
  return 1
}

stop_slurm() {
  local file
  for file in slurmd.pid slurmctld.pid munge/pid; do
    [ -s "$slurm_folder/$file" ] && kill "$(cat "$slurm_folder/$file")" 2>/dev/null
  done
  sleep 1
}

PATH=$PATH:/usr/sbin:/sbin
if [ -z "$skipped" ] && ! start_slurm; then
  stop_slurm
  skipped="SLURM does not start here; see the logs in $slurm_folder"
fi
