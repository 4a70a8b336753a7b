#!/usr/bin/env bash
# install_test.sh DEB: installs the package into a fresh Debian 12 root, starts, reloads, upgrades
# and stops the server there, and removes the package again. As root; the network must reach Debian.
# ROOT=DIR uses a root that debootstrap has made before.
set -euo pipefail

deb=$(readlink -f "$1")
root=${ROOT:-}
made=
[ -n "$root" ] || { root=$(mktemp -d); made=$root; chmod 755 "$root"; }   # its users pass through
port=$((20000 + RANDOM % 10000))

fail() { echo "install_test: $*" >&2; exit 1; }
inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
ask() { curl -fsS --max-time 20 "http://127.0.0.1:$port$1"; }
until_true() {
  for _ in $(seq 300); do "$@" 2>/dev/null && return 0; sleep 0.1; done
  fail "never true: $*"
}
pid() { cat "$root/run/resty-server.pid"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
other_pid() { [ -s "$root/run/resty-server.pid" ] && [ "$(pid)" != "$1" ]; }
cleanup() {
  [ ! -s "$root/run/resty-server.pid" ] || kill -TERM "$(pid)" 2>/dev/null || true
  umount "$root/proc" 2>/dev/null || true
  [ -z "$made" ] || rm -rf "$made"
}
trap cleanup EXIT

[ -x "$root/bin/sh" ] || debootstrap --variant=minbase bookworm "$root" >/dev/null
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp "$deb" "$root/root/package.deb"
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends /root/package.deb nginx-common >/dev/null

inside getent passwd resty-server >/dev/null || fail "no user"
inside resty-server -t || fail "the configuration as installed"
inside sed -i "s/listen       8080;/listen       127.0.0.1:$port;/" /etc/resty-server/server.conf
inside resty-server
until_true ask / >/dev/null
ask / | grep -qi '<html' || fail "no page"
ask '/hello?name=deb' | grep -q 'Hello, deb!' || fail "no Lua"
ask /lua/greet >/dev/null || fail "no handler from a file"
ps -o user= --ppid "$(pid)" | grep -qv root || fail "workers run as root"
[ -s "$root/var/log/resty-server/access.log" ] || fail "no access log"

inside sed -i 's/Hello, /Hi, /' /etc/resty-server/server.conf
inside resty-server -s reload
until_true sh -c "curl -fsS 'http://127.0.0.1:$port/hello?name=deb' | grep -q 'Hi, deb!'"

echo "-- installed again, as an upgrade: the running server changes over to the new binary"
before=$(pid)
inside apt-get install -y -qq --reinstall /root/package.deb >/dev/null
until_true other_pid "$before"
until_true gone "$before"
ask /hello | grep -q 'Hi, ' || fail "not served after the upgrade, or its configuration is lost"

echo "-- removed"
running=$(pid)
inside apt-get remove -y -qq resty-server >/dev/null
until_true gone "$running"
[ -f "$root/etc/resty-server/server.conf" ] || fail "the configuration went with the removal"
inside dpkg --purge resty-server >/dev/null
[ ! -e "$root/etc/resty-server" ] || fail "the configuration outlived the purge"
[ ! -e "$root/var/log/resty-server" ] || fail "logs outlived the purge"
[ -d "$root/var/lib/resty-server/html" ] || fail "pages went with the purge"
echo "install_test: passed"
