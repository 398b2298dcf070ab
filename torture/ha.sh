#!/usr/bin/env bash
# Three members of etcd and two servers of rdlm on this machine, for a try-out. Ctrl-C ends all
# of them and removes what they have written.
set -euo pipefail

binary=$1
command -v etcd >/dev/null || { echo "etcd is not installed" >&2; exit 1; }
dir=$(mktemp -d)
pids=()
end() {
    trap - EXIT INT TERM
    kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap end EXIT INT TERM

members= endpoints=
for n in 0 1 2; do
    members+=",m$n=http://127.0.0.1:1238$n" endpoints+=",http://127.0.0.1:1237$n"
done
for n in 0 1 2; do
    client=http://127.0.0.1:1237$n peer=http://127.0.0.1:1238$n
    etcd --name m$n --data-dir "$dir/m$n" --initial-cluster "${members#,}" \
        --listen-client-urls $client --advertise-client-urls $client \
        --listen-peer-urls $peer --initial-advertise-peer-urls $peer \
        --auto-compaction-mode=periodic --auto-compaction-retention=5m \
        --logger zap --log-level error &
    pids+=($!)
done
for port in 8888 8889; do
    "$binary" serve --bind 127.0.0.1 --port $port --etcd "${endpoints#,}" &
    pids+=($!)
done
cat <<END
Try it, and kill the active server (kill -9) meanwhile:
  curl -s localhost:8888/health; curl -s localhost:8889/health
  RDLM_URL=http://localhost:8888,http://localhost:8889 rdlm run demo -- sleep 60
Ctrl-C ends all of it.
END
wait
