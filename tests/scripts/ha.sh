#!/usr/bin/env bash
# Three members of etcd and two servers of rdlm on this machine, for a try-out. Ctrl-C ends all
# of them and removes what they have written.
set -euo pipefail

binary=$1
command -v etcd >/dev/null || { echo "etcd is not installed" >&2; exit 1; }
dir=$(mktemp -d)
servers=() members=()
end() {
    trap - EXIT
    trap '' INT TERM
    kill "${servers[@]}" 2>/dev/null || true
    wait "${servers[@]}" 2>/dev/null || true
    # Nobody needs what they have, and the last of them would wait for the others.
    kill -9 "${members[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap end EXIT
trap exit INT TERM

cluster= endpoints=
for n in 0 1 2; do
    cluster+=",m$n=http://127.0.0.1:1238$n" endpoints+=",http://127.0.0.1:1237$n"
done
for n in 0 1 2; do
    client=http://127.0.0.1:1237$n peer=http://127.0.0.1:1238$n
    # Not in reach of Ctrl-C: the servers step down first.
    setsid etcd --name m$n --data-dir "$dir/m$n" --initial-cluster "${cluster#,}" \
        --listen-client-urls $client --advertise-client-urls $client \
        --listen-peer-urls $peer --initial-advertise-peer-urls $peer \
        --auto-compaction-mode=periodic --auto-compaction-retention=5m \
        --logger zap --log-level error &
    members+=($!)
done
for port in 8888 8889; do
    "$binary" serve --bind 127.0.0.1 --port $port --etcd "${endpoints#,}" &
    servers+=($!)
done
cat <<END
Try it, and kill the active server (kill -9) meanwhile:
  curl -s localhost:8888/health; curl -s localhost:8889/health
  RDLM_URL=http://localhost:8888,http://localhost:8889 $binary run demo -- sleep 60
Their processes: ${servers[*]}. Ctrl-C ends all of it.
END
wait
