# Sourced by the scripts beside it: starts the release server on a free port of the loopback
# and ends it with the script. Sets `url` and `pid`.

binary=$(ls target/*/release/rdlm | head -1)
work=$(mktemp -d)
"$binary" serve --bind 127.0.0.1 --port 0 "$@" 2>"$work/log" &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true; rm -rf "$work"' EXIT
until grep -q 'listening on' "$work/log"; do
    kill -0 $pid || { cat "$work/log"; exit 1; }
    sleep 0.05
done
url=http://$(sed -n 's/.*listening on \([^,]*\),.*/\1/p' "$work/log" | head -1)
