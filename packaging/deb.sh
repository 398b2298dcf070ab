#!/usr/bin/env bash
# Builds target/rdlm_VERSION_ARCH.deb, or that in CARGO_TARGET_DIR, from what `make` has built. The
# same files give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${SOURCE_DATE_EPOCH:?is set by make deb}"
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
arch=$(dpkg --print-architecture)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
umask 022

make -s install install-systemd DESTDIR="$stage" PREFIX=/usr
# What the package manager owns is not in /etc.
mkdir -p "$stage/usr/lib/systemd/system"
mv "$stage/etc/systemd/system/rdlm.service" "$stage/usr/lib/systemd/system/"
rmdir -p --ignore-fail-on-non-empty "$stage/etc/systemd/system"
install -D -m 644 packaging/debian/default "$stage/etc/default/rdlm"
install -D -m 644 LICENSE "$stage/usr/share/doc/rdlm/copyright"
gzip -9n < CHANGELOG.md > "$stage/usr/share/doc/rdlm/changelog.gz"
install -m 644 README.md ARCHITECTURE.md CHANGELOG.md "$stage/usr/share/doc/rdlm/"
cp -r docs "$stage/usr/share/doc/rdlm/"
install -D -m 644 -t "$stage/usr/share/doc/rdlm/packaging" packaging/prometheus-rules.yml \
    packaging/grafana-dashboard.json packaging/kubernetes.yaml packaging/kubernetes-ha.yaml
sed -i 's|^Documentation=.*|Documentation=man:rdlm(1) file:///usr/share/doc/rdlm/docs/operations.md|' \
    "$stage/usr/lib/systemd/system/rdlm.service"
# Where Debian's zsh looks.
mv "$stage/usr/share/zsh/site-functions" "$stage/usr/share/zsh/vendor-completions"
gzip -9n "$stage/usr/share/man/man1/rdlm.1"
ln -sf rdlm.1.gz "$stage/usr/share/man/man1/rdlm-daemon.1.gz"
rm "$stage/usr/share/man/man1/rdlm-daemon.1"

mkdir "$stage/DEBIAN"
install -m 755 packaging/debian/{postinst,prerm,postrm} "$stage/DEBIAN/"
install -m 644 packaging/debian/conffiles "$stage/DEBIAN/"
# In KiB, each file rounded up: what du counts depends on the file system.
size=$(find "$stage"/{etc,usr} -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" packaging/debian/control > "$stage/DEBIAN/control"
find "$stage" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$stage" "$target/rdlm_${version}_$arch.deb"
