#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: needs root, slurm-wlm and munge (Debian packages).
#
#   cluster.sh start FOLDER   start it; everything it writes is in FOLDER, but for a link from /etc/slurm
#   cluster.sh stop FOLDER    end it: only the processes that `start` began, and the link
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }

[[ $# -eq 2 ]] || usage
folder=$(realpath -m "$2")
# Not SLURM_CONF: Snakemake's job steps drop that variable.
link=/etc/slurm/slurm.conf

write_config() {
    # Without accounting and cgroups, which a container may not have; status by squeue needs MinJobAge.
    cat > "$folder/slurm.conf" <<EOF
ClusterName=avfusion-test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
MinJobAge=600
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=${SLURM_TEST_MEMORY:-4000} State=UNKNOWN
PartitionName=test Nodes=$(hostname -s) Default=YES MaxTime=INFINITE State=UP
EOF
}

start() {
    if [[ -e $link || -L $link ]]; then
        echo "cluster.sh: $link is there already; this machine has a SLURM of its own, or a test left it" >&2
        exit 1
    fi
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
    write_config
    mkdir -p "$(dirname "$link")"
    ln -s "$folder/slurm.conf" "$link"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --states=idle 2>/dev/null | grep -q idle; then return; fi
        sleep 0.5
    done
    echo "cluster.sh: the node did not become idle within 30 s" >&2
    for log in "$folder"/*.log; do tail -n 20 "$log" >&2; done
    stop
    exit 1
}

stop() {
    for daemon in slurmd slurmctld munged; do
        if [[ -s $folder/$daemon.pid ]]; then kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true; fi
    done
    if [[ $(readlink "$link") == "$folder/slurm.conf" ]]; then rm "$link"; fi
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
