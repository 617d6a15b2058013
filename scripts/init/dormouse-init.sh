#!/bin/sh
# A workspace at the start and stop of a sandbox, for any init: POSIX sh, safe to run twice.
#   dormouse-init.sh start     mounts; returns when the workspace can be used
#   dormouse-init.sh stop      hibernates; returns when everything is in the store
#   dormouse-init.sh status    exit code 0: mounted
#
# Settings come from the environment, or from /etc/default/dormouse (DORMOUSE_DEFAULTS names another file):
#   DORMOUSE_WORKSPACE        name of the workspace (needed)
#   DORMOUSE_STORE            s3://bucket/prefix or file:///dir (needed, here or in /etc/dormouse.toml)
#   DORMOUSE_MOUNTPOINT       default /workspace
#   DORMOUSE_START_DEADLINE   seconds to go on trying while the store is away or the lease is held; default 60
#   DORMOUSE_STOP_DEADLINE    seconds to go on trying to hibernate; default 300
#   DORMOUSE_MOUNT_FLAGS      more flags for `dormouse mount`
# Every other DORMOUSE_* variable that `dormouse mount --help` names works as well.
#
# Exit codes are dormouse's (`dormouse exit-codes`). When stop gives up, nothing is lost as long as the cache
# directory of this machine is kept: the next start, here, goes on from it.
set -u

settings=${DORMOUSE_DEFAULTS:-/etc/default/dormouse}
if [ -r "$settings" ]; then
    set -a
    # shellcheck disable=SC1090
    . "$settings"
    set +a
fi
dormouse=${DORMOUSE:-dormouse}
mountpoint=${DORMOUSE_MOUNTPOINT:-/workspace}
start_deadline=${DORMOUSE_START_DEADLINE:-60}
stop_deadline=${DORMOUSE_STOP_DEADLINE:-300}

say() { echo "dormouse-init: $*" >&2; }
seconds() { cut -d. -f1 /proc/uptime; }

# Goes on while the exit code ($1) is one that time may cure: 3, the store is away; 6, the lease is held.
curable() { [ "$1" -eq 3 ] || [ "$1" -eq 6 ]; }

start() {
    if [ -z "${DORMOUSE_WORKSPACE:-}" ]; then
        say "DORMOUSE_WORKSPACE is not set"
        return 2
    fi
    if "$dormouse" status "$mountpoint" >/dev/null 2>&1; then
        say "$mountpoint is mounted already"
        return 0
    fi
    # A mount that has died still answers to mkdir -p with an error: `mount` takes it away.
    [ -d "$mountpoint" ] || mkdir -p "$mountpoint" 2>/dev/null
    until=$(($(seconds) + start_deadline))
    while :; do
        # Words of the flags are meant to be split.
        # shellcheck disable=SC2086
        DORMOUSE_STORE_TIMEOUT=${DORMOUSE_STORE_TIMEOUT:-$start_deadline} \
            "$dormouse" mount --create ${DORMOUSE_MOUNT_FLAGS:-} "$DORMOUSE_WORKSPACE" "$mountpoint"
        code=$?
        [ "$code" -eq 0 ] && return 0
        if ! curable "$code" || [ "$(seconds)" -ge "$until" ]; then
            say "$DORMOUSE_WORKSPACE could not be mounted (exit code $code)"
            return "$code"
        fi
        sleep 1
    done
}

stop() {
    until=$(($(seconds) + stop_deadline))
    while :; do
        left=$((until - $(seconds)))
        [ "$left" -gt 0 ] || left=1
        "$dormouse" hibernate --timeout "$left" "$mountpoint"
        code=$?
        # 5: nothing is mounted there, so it was stopped before.
        [ "$code" -eq 0 ] || [ "$code" -eq 5 ] && return 0
        if ! curable "$code" || [ "$(seconds)" -ge "$until" ]; then
            say "not everything is in the store (exit code $code): keep this machine's cache directory"
            return "$code"
        fi
        sleep 1
    done
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) "$dormouse" status "$mountpoint" ;;
    *) say "usage: $0 start|stop|status"; exit 2 ;;
esac
