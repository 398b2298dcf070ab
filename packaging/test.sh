#!/usr/bin/env bash
# Installs and purges the Debian package in a root directory of its own, and builds and runs the
# image. As root; says what it skipped. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/scripts/skip.sh
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

# Starts a server with a command; waits until it listens; sets `pid` and `url`.
start() {
    "$@" 2>"$work/log" &
    pid=$!
    until grep -q 'listening on' "$work/log"; do
        kill -0 "$pid" || { cat "$work/log"; exit 1; }
        sleep 0.05
    done
    url=http://127.0.0.1:$(sed -n 's/.*listening on [^ ]*:\([0-9]*\),.*/\1/p' "$work/log" | head -1)
}

# Ends it by SIGTERM; it has to say that all is well.
stop() {
    kill "$pid"
    wait "$pid"
    pid=
}

image() {
    command -v buildah >/dev/null || skip "buildah is not installed"
    mkdir -p "$work/image/data"
    cp "$target"/*/release/rdlm packaging/Dockerfile "$work/image/"
    export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
    local storage=(--root "$work/storage" --runroot "$work/run")
    buildah "${storage[@]}" build -q -t rdlm "$work/image" >/dev/null
    local container root
    container=$(buildah "${storage[@]}" from rdlm)
    buildah "${storage[@]}" inspect --format '{{.OCIv1.Config}}' "$container" | grep -q SIGTERM
    root=$(buildah "${storage[@]}" mount "$container")
    # As the image has it: nobody, in a root directory with nothing else.
    start chroot --userspec=65534:65534 "$root" /rdlm serve --port 0 --data-dir /data
    curl -sf "$url/locks/contained" -d '{"title":"t","wait":0,"lifetime":60}' >/dev/null
    stop
    [ -n "$(ls "$root/data")" ]
    du -h "$root/rdlm"
    buildah "${storage[@]}" rm "$container" >/dev/null
    echo "the image was built and run"
}

tests/scripts/debian.sh "$target"/rdlm_*.deb
image
