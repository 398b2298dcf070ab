#!/bin/sh
# Prints what Cargo takes by --config so that a build for TARGET has none of this machine's paths
# in it: neither where the sources are nor the home of Cargo. The binary is then the same wherever
# it is built. Crates have to have been fetched.
set -eu
target=$1
cargo=${CARGO_HOME:-$HOME/.cargo}
# A directory of the registry has the registry's host in its name.
for registry in "$cargo"/registry/src/*; do
    flags="${flags-}'--remap-path-prefix=$registry=/crates', "
done
echo "target.$target.rustflags = [${flags}'--remap-path-prefix=$PWD=/rdlm']"
