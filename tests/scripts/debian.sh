#!/usr/bin/env bash
# Installs, upgrades, removes and purges a package of rdlm: debian.sh FILE [PROGRAM]. What it changes
# is above this machine's root directory, in memory, and is gone at the end. As root. PROGRAM is there
# too, even if it is on another file system.
set -euo pipefail

if [ -z "${RDLM_OWN_ROOT-}" ]; then
    export RDLM_OWN_ROOT=1
    exec unshare --mount "$0" "$(realpath "$1")" "${2-}"
fi

fail() {
    echo "$*" >&2
    cat "$root/run/calls" >&2
    exit 1
}

# A root directory whose changes stay in memory, with a systemctl that notes what it would
# start and stop.
work=$(mktemp -d)
mount -t tmpfs none "$work"
mkdir "$work/upper" "$work/work" "$work/root"
root=$work/root
mount -t overlay none -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
trap 'umount --recursive "$work"; rmdir "$work"' EXIT
mkdir -p "$root/run/systemd/system"
rm -f "$root/usr/sbin/policy-rc.d"
mv "$root/usr/bin/systemctl" "$root/usr/bin/systemctl-of-files"
cat > "$root/usr/bin/systemctl" <<'FAKE'
#!/bin/sh
case "$*" in
# What is enabled is links in the file system, for which systemd need not run.
--root=*) exec systemctl-of-files "$@" ;;
*is-enabled*) test -e /etc/systemd/system/multi-user.target.wants/rdlm.service && echo enabled ;;
*is-active*) test -e /run/active ;;
*) echo "$*" >> /run/calls ;;
esac
FAKE
chmod 755 "$root/usr/bin/systemctl"
mkdir -p "$root/package"
cp "$1" "$root/package/rdlm.deb"
if [ -n "$2" ]; then
    mkdir -p "$root$(dirname "$2")"
    touch "$root$2"
    mount --bind "$2" "$root$2"
fi
inside() { chroot "$root" "$@"; }
link=$root/etc/systemd/system/multi-user.target.wants/rdlm.service
calls() { grep -c -- "$1 rdlm.service" "$root/run/calls" || true; }
inside dpkg -P rdlm >/dev/null 2>&1 || true
touch "$root/run/calls"

inside dpkg -i /package/rdlm.deb >/dev/null
[ -L "$link" ] || fail "it is not enabled"
[ "$(calls start)" = 1 ] || fail "it is not started"
settings=$(grep -v '^#' "$root/etc/default/rdlm" | xargs)
inside env $settings rdlm serve --check | grep -q '^--bind  *127.0.0.1 ' || fail "others are served"
for file in copyright changelog.gz README.md docs/operations.md docs/security.md \
    packaging/prometheus-rules.yml packaging/grafana-dashboard.json; do
    [ -s "$root/usr/share/doc/rdlm/$file" ] || fail "$file is missing"
done
documentation=$(sed -n 's|^Documentation=.*file://||p' "$root/usr/lib/systemd/system/rdlm.service")
[ -s "$root$documentation" ] || fail "the unit names $documentation"
grep -q '^ExecReload=' "$root/usr/lib/systemd/system/rdlm.service" || fail "it cannot be reloaded"

# Another setting, and no start with the host: an upgrade leaves both alone.
echo 'RDLM_SERVE_PORT=9999' >> "$root/etc/default/rdlm"
rm "$link"
inside dpkg -i /package/rdlm.deb >/dev/null
[ ! -e "$link" ] || fail "an upgrade has enabled what was disabled"
[ "$(calls restart)" = 0 ] || fail "an upgrade has started what was disabled"
grep -q 9999 "$root/etc/default/rdlm" || fail "an upgrade has undone a setting"
# Disabled, but running: an upgrade replaces the program.
touch "$root/run/active"
inside dpkg -i /package/rdlm.deb >/dev/null
[ "$(calls restart)" = 1 ] || fail "an upgrade has left the old program running"
[ ! -e "$link" ] || fail "an upgrade has enabled what was disabled"

mkdir -p "$root/var/lib/private/rdlm"
inside systemctl --root=/ enable rdlm.service 2>/dev/null
inside dpkg -r rdlm >/dev/null
[ "$(calls stop)" = 1 ] || fail "a removal has left it running"
[ -e "$root/etc/default/rdlm" ] || fail "a removal has removed the settings"
[ -e "$root/var/lib/private/rdlm" ] || fail "a removal has removed the locks"
# What was removed and not purged counts as an upgrade for dpkg, and is started all the same.
rm "$root/run/active"
inside dpkg -i /package/rdlm.deb >/dev/null
[ "$(calls restart)" = 2 ] || fail "it is not started after a removal"
inside dpkg -P rdlm >/dev/null
left=$(find "$root"/{etc,usr,var/lib} -path '*rdlm*' -not -path "$root/usr/local/*" \
    -not -path "$root/usr/src/*" 2>/dev/null || true)
[ -z "$left" ] || fail "left behind: $left"
echo "installed, upgraded, removed and purged"
