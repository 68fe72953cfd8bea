#!/bin/sh
# create.sh ADDRESS...: make a Cluster of these nodes, each primary with one replica, unless it is
# one already. REDISCLI_AUTH is the password of `operator`.
set -eu
host=${1%:*} port=${1##*:}
if redis-cli -e -h "$host" -p "$port" --user operator CLUSTER INFO | grep -q 'cluster_slots_assigned:16384'
then
    echo "It is a Cluster already."
    exit
fi
redis-cli --user operator --cluster create "$@" --cluster-replicas 1 --cluster-yes
