#!/usr/bin/env bash
# Builds what is published twice, from two checkouts of HEAD in different directories, and says
# whether all files are the same, byte by byte. Takes two builds from scratch.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse HEAD)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for place in one another/and/deeper; do
    mkdir -p "$work/$place"
    git archive "$commit" | tar -x -C "$work/$place"
    # Neither directories nor times may matter.
    env -u SOURCE_DATE_EPOCH CARGO_TARGET_DIR="$work/$place/built" make -s -C "$work/$place" dist
done

one=$work/one/built/dist
cat "$one/SHA256SUMS"
tar -xzf "$one"/rdlm-*.tar.gz -C "$work"
if strings -a "$work"/rdlm-*/rdlm | grep -F -e "$work" -e "${CARGO_HOME:-$HOME/.cargo}"; then
    echo "the binary has paths of this machine in it" >&2
    exit 1
fi
diff -r "$one" "$work/another/and/deeper/built/dist"
echo "both builds gave the same bytes"
