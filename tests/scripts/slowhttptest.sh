#!/usr/bin/env bash
# Slow heads, slow bodies and slow readers, a thousand at a time: an ordinary client must get
# its locks all the while, and everything is as before when they are gone. Needs slowhttptest.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/scripts/skip.sh
command -v slowhttptest >/dev/null || skip "slowhttptest is not installed"
. tests/scripts/server.sh

threads() { sed -n 's/^Threads:\s*//p' /proc/$pid/status; }

# Acquires and releases until the file $work/over is there; fails when that takes over 2 s.
probe() {
    local body='{"title":"probe","wait":0,"lifetime":60}' lock count=0
    until [ -e "$work/over" ]; do
        lock=$(curl -sf -m 2 -o /dev/null -D - "$url/locks/probe" -d "$body" |
            tr -d '\r' | sed -n 's/^Location: //p')
        curl -sf -m 2 -X DELETE "$lock"
        count=$((count + 1))
        sleep 0.05
    done
    echo "an ordinary client had its lock $count times"
}

attack() { # NAME OPTIONS...
    local name=$1
    shift
    rm -f "$work/over"
    probe & local probe=$!
    slowhttptest -c 1000 -r 1000 -l 40 -p 2 "$@" >"$work/attack" 2>&1 || true
    touch "$work/over"
    wait $probe || { echo "$name: an ordinary client was not served"; exit 1; }
    local available
    available=$(sed 's/\x1b\[[0-9;]*m//g' "$work/attack" | grep -c 'service available: *NO' || true)
    for _ in $(seq 200); do
        [ "$(threads)" -le "$idle" ] && break
        sleep 0.1
    done
    echo "$name: unavailable in $available reports, $(threads) threads left of $idle"
    [ "$available" = 0 ] && [ "$(threads)" -le "$idle" ]
}

idle=$(threads)
for n in $(seq 300); do # A list that is long to read.
    curl -sf -o /dev/null "$url/locks/$(printf '%0200d' "$n")" -d '{"title":"x","wait":0,"lifetime":9999}'
done
attack "slow heads" -H -i 1 -x 24 -u "$url/"
attack "slow bodies" -B -i 1 -s 8192 -x 10 -t POST -u "$url/locks/slow"
attack "slow readers" -X -w 10 -y 20 -n 5 -z 32 -k 3 -u "$url/resources"
