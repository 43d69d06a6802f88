#!/usr/bin/env bash
# Pretrain on several machines that ssh reaches and that share this folder and the store.
#
#   deployments/multi-node/hosts.sh CONFIG.yaml STORE HOST…
#
# Run it on the first machine; the HOSTs are the others. Each lends itself with model.entry.join until
# this script ends. Everything but pretraining runs here alone.
#
#   PORT=29400            where the machines meet; open to each other, closed to the rest of the world
#   HEAD=$(hostname -f)   this machine, as the others reach it
#   PYTHON=python         on every machine
#   NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME   the network interface, where a machine has several
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
config=$1 store=$2
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)
head=${HEAD:-$(hostname -f)} port=${PORT:-29400} python=${PYTHON:-python}
mkdir -p "$store"
store=$(cd "$store" && pwd)

interfaces="${NCCL_SOCKET_IFNAME:+NCCL_SOCKET_IFNAME='$NCCL_SOCKET_IFNAME'}"
interfaces+=" ${GLOO_SOCKET_IFNAME:+GLOO_SOCKET_IFNAME='$GLOO_SOCKET_IFNAME'}"
joined=()
for host in "$@"; do
    # -tt: the far process ends when this connection does.
    ssh -tt -o BatchMode=yes "$host" \
        "cd '$root' && env $interfaces '$python' -m model.entry.join '$store'" \
        </dev/null >"$store/join-$host.log" 2>&1 &
    joined+=($!)
done
trap 'kill "${joined[@]}" 2>/dev/null || true' EXIT

cd "$root"
steel run "$config" --store "$store" --stages pretrain \
    --set pretrain.nodes=$(($# + 1)) --set pretrain.rendezvous="$head:$port"
