#!/bin/sh
# Mounts the workspace, runs the command in it, hibernates when the command ends or the container is stopped.
#   DORMOUSE_WORKSPACE, DORMOUSE_STORE   what to mount (needed)
#   DORMOUSE_MOUNTPOINT                  default /workspace
#   DORMOUSE_STOP_DEADLINE               seconds for the hibernation, default 300: stop the container with at
#                                        least that (docker stop --time 310)
# The exit code is the command's, or dormouse's (`dormouse exit-codes`) where the workspace could not be mounted or
# not be put into the store.
set -u
: "${DORMOUSE_WORKSPACE:?name the workspace}"
mountpoint=${DORMOUSE_MOUNTPOINT:-/workspace}

# The store may be new; this changes nothing if it is not.
dormouse init >/dev/null || exit
dormouse mount --create "$DORMOUSE_WORKSPACE" "$mountpoint" || exit

# The command gets signals first; the workspace is hibernated when it has ended. Credentials stay with the daemon:
# the command does not get them.
cd "$mountpoint" || exit
env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
code=0
while :; do
    wait "$child"; code=$?
    # A signal ends `wait` before the command has ended.
    kill -0 "$child" 2>/dev/null || break
done
trap '' TERM INT
cd /
dormouse hibernate --timeout "${DORMOUSE_STOP_DEADLINE:-300}" "$mountpoint" || exit
exit "$code"
