#!/bin/sh
# Installs Skiff and starts it:   curl -sfL URL/install.sh | sh -
#
# From a checkout it installs target/ARCH-unknown-linux-gnu/release/skiff, and builds it only where it is missing: after a pull,
# `cargo build --release` comes first.
# Running it again upgrades; nothing is restarted when nothing changed, and pods keep running.
#
#   SKIFF_URL            where releases are: $SKIFF_URL/skiff-<arch> and $SKIFF_URL/sha256sums
#   SKIFF_BINARY         install this file instead
#   SKIFF_BIN_DIR        where the executable goes (/usr/local/bin)
#   SKIFF_EXEC           further arguments for `skiff server`
#   SKIFF_SKIP_START     anything: install, do not start
#   SKIFF_SKIP_ENABLE    anything: do not start at boot either
set -eu

bin_dir=${SKIFF_BIN_DIR:-/usr/local/bin}
binary=$bin_dir/skiff
here=$(CDPATH='' cd -- "$(dirname -- "$0")" 2>/dev/null && pwd) || here=

say() { printf '%s\n' "skiff: $*"; }
fail() { printf '%s\n' "skiff: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_checkout() { [ -n "$here" ] && [ -f "$here/Cargo.toml" ] && [ -f "$here/src/main.rs" ]; }

check_machine() {
    [ "$(uname -s)" = Linux ] || fail "Skiff runs on Linux; this is $(uname -s)"
    [ "$(id -u)" = 0 ] || fail "installing needs root: run this with sudo"
}

# Prints the path of the executable to install.
find_binary() {
    if [ -n "${SKIFF_BINARY:-}" ]; then
        [ -f "$SKIFF_BINARY" ] || fail "SKIFF_BINARY=$SKIFF_BINARY is no file"
        printf '%s\n' "$SKIFF_BINARY"
    elif is_checkout; then
        build
    elif [ -n "${SKIFF_URL:-}" ]; then
        download
    else
        fail "set SKIFF_URL to where the releases are, or run install.sh from a checkout"
    fi
}

build() {
    built=$here/target/$(uname -m)-unknown-linux-gnu/release/skiff
    if [ ! -x "$built" ]; then
        have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
        # sudo drops the caller's PATH, and with it a toolchain in their home.
        if ! have cargo && [ -n "${SUDO_USER:-}" ]; then
            home=$(eval printf '%s' "~$SUDO_USER")
            PATH=$home/.cargo/bin:$PATH
            export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        fi
        have cargo || fail "building needs Rust (cargo is not in PATH): see https://rustup.rs"
        say "building (some minutes)" >&2
        (cd "$here" && cargo build --release --locked --bin skiff --target "$(uname -m)-unknown-linux-gnu") >&2
    fi
    printf '%s\n' "$built"
}

download() {
    case $(uname -m) in
        x86_64 | amd64) arch=amd64 ;;
        aarch64 | arm64) arch=arm64 ;;
        *) fail "there is no release for $(uname -m)" ;;
    esac
    work=$(mktemp -d)
    for file in "skiff-$arch" sha256sums; do
        if have curl; then
            curl -sfL -o "$work/$file" "$SKIFF_URL/$file" || fail "could not download $SKIFF_URL/$file"
        elif have wget; then
            wget -q -O "$work/$file" "$SKIFF_URL/$file" || fail "could not download $SKIFF_URL/$file"
        else
            fail "downloading needs curl or wget"
        fi
    done
    wanted=$(awk -v name="skiff-$arch" '$2 == name || $2 == "*" name { print $1 }' "$work/sha256sums")
    found=$(sha256sum "$work/skiff-$arch" | awk '{ print $1 }')
    [ -n "$wanted" ] || fail "sha256sums does not list skiff-$arch"
    [ "$wanted" = "$found" ] || fail "the checksum of skiff-$arch is wrong: expected $wanted, got $found"
    printf '%s\n' "$work/skiff-$arch"
}

# Succeeds when something changed.
install_binary() {
    if [ -f "$binary" ] && cmp -s "$1" "$binary"; then
        return 1
    fi
    mkdir -p "$bin_dir"
    # Replaced in one step: what runs keeps its file.
    cp "$1" "$binary.new"
    chmod 755 "$binary.new"
    mv -f "$binary.new" "$binary"
}

# As k3s: by these names, where nobody has them.
link_clients() {
    for name in kubectl crictl ctr; do
        if ! have "$name" && [ ! -e "$bin_dir/$name" ]; then
            ln -s skiff "$bin_dir/$name"
        fi
    done
}

has_systemd() { [ -d /run/systemd/system ] && have systemctl; }
has_openrc() { have openrc-run || [ -x /sbin/openrc-run ]; }

# Succeeds when the file changed. $1 file, standard input: content
put() {
    new=$(mktemp)
    cat >"$new"
    if [ -f "$1" ] && cmp -s "$new" "$1"; then
        rm -f "$new"
        return 1
    fi
    mkdir -p "$(dirname "$1")"
    mv -f "$new" "$1"
    chmod "$2" "$1"
}

start_with_systemd() {
    # shellcheck disable=SC2086 # arguments, to be split
    if "$binary" unit systemd ${SKIFF_EXEC:-} | put /etc/systemd/system/skiff.service 644; then
        changed=yes
        systemctl daemon-reload
    fi
    [ -n "${SKIFF_SKIP_ENABLE:-}" ] || systemctl enable -q skiff
    [ -z "${SKIFF_SKIP_START:-}" ] || return 0
    if [ "$changed" = yes ]; then
        systemctl restart skiff
    else
        systemctl start skiff
    fi
}

start_with_openrc() {
    # shellcheck disable=SC2086 # arguments, to be split
    if "$binary" unit openrc ${SKIFF_EXEC:-} | put /etc/init.d/skiff 755; then
        changed=yes
    fi
    [ -n "${SKIFF_SKIP_ENABLE:-}" ] || rc-update add skiff default
    [ -z "${SKIFF_SKIP_START:-}" ] || return 0
    if [ "$changed" = yes ]; then
        rc-service skiff restart
    else
        rc-service skiff start
    fi
}

running_pid() {
    [ -f /run/skiff/server.pid ] && kill -0 "$(cat /run/skiff/server.pid)" 2>/dev/null && cat /run/skiff/server.pid
}

start_in_background() {
    [ -z "${SKIFF_SKIP_START:-}" ] || return 0
    if pid=$(running_pid); then
        [ "$changed" = yes ] || return 0
        kill "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    say "neither systemd nor OpenRC runs here: starting in the background, log in /var/log/skiff.log"
    # shellcheck disable=SC2086 # arguments, to be split
    setsid "$binary" server ${SKIFF_EXEC:-} >>/var/log/skiff.log 2>&1 </dev/null &
}

check_machine
source_file=$(find_binary)
changed=no
if install_binary "$source_file"; then
    changed=yes
fi
link_clients
if has_systemd; then
    start_with_systemd
elif has_openrc; then
    start_with_openrc
else
    start_in_background
fi

if [ -n "${SKIFF_SKIP_START:-}" ]; then
    say "installed $binary"
    exit 0
fi
"$binary" wait --for all --timeout 3m || fail "it did not become ready: see its log (journalctl -u skiff, or /var/log/skiff.log)"
"$binary" kubectl get nodes
say "ready. Remove everything again with: $binary uninstall"
