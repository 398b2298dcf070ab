#!/usr/bin/env bash
# Builds target/rdlm_VERSION_ARCH.deb, or that in CARGO_TARGET_DIR, from what `make` has built.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
arch=$(dpkg --print-architecture)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

make -s install install-systemd DESTDIR="$stage" PREFIX=/usr
# What the package manager owns is not in /etc.
mkdir -p "$stage/usr/lib/systemd/system"
mv "$stage/etc/systemd/system/rdlm.service" "$stage/usr/lib/systemd/system/"
rmdir -p --ignore-fail-on-non-empty "$stage/etc/systemd/system"
install -D -m 644 LICENSE "$stage/usr/share/doc/rdlm/copyright"
if [ -d "$stage/usr/share/man" ]; then find "$stage/usr/share/man" -type f -exec gzip -9n {} +; fi

mkdir "$stage/DEBIAN"
install -m 755 packaging/debian/{postinst,prerm,postrm} "$stage/DEBIAN/"
size=$(du -sk --exclude DEBIAN "$stage" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" packaging/debian/control > "$stage/DEBIAN/control"
dpkg-deb --root-owner-group --build "$stage" "$target/rdlm_${version}_$arch.deb"
