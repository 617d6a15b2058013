# shellcheck shell=bash
# Sourced by scripts/test: the S3 servers that tests/s3 wants. Each sees what another does not (docs/s3-servers.md):
#   Ceph RGW   a production server; If-Match without quotes, refuses wrong secrets and damaged bodies, can be killed
#   moto       a test double that keeps the rules of If-Match with quotes, one request at a time
#   s3s-fs     not atomic under a race, so it must be refused; only where it is installed (cargo install s3s-fs --features binary)

servers_dir=$PWD/target/test-servers
server_pids=()

# wait_for_port PORT NAME
wait_for_port() {
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    die "$2 does not answer on port $1, see $servers_dir"
}

start_rgw() {
    DORMOUSE_S3_DATA=$servers_dir/ceph
    DORMOUSE_S3_PORT=$(free_port)
    DORMOUSE_S3_MON_PORT=$(free_port)
    export DORMOUSE_S3_DATA DORMOUSE_S3_PORT DORMOUSE_S3_MON_PORT
    scripts/s3-server install
    # What a test run left that was killed.
    scripts/s3-server stop
    scripts/s3-server wipe
    scripts/s3-server start
    eval "$(scripts/s3-server env)"
    export DORMOUSE_TEST_S3_ENDPOINT=$DORMOUSE_ENDPOINT
    unset DORMOUSE_ENDPOINT
}

start_moto() {
    local venv=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/moto port
    if [ ! -x "$venv/bin/moto_server" ]; then
        say "installing moto into $venv"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check 'moto[s3,server]>=5'
    fi
    port=$(free_port)
    # One request at a time: moto compares and writes without a lock, so its threads can both win a race.
    "$venv/bin/python" -c '
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
' "$port" >"$servers_dir/moto.log" 2>&1 &
    server_pids+=($!)
    wait_for_port "$port" moto
    export DORMOUSE_TEST_S3_MOTO=http://127.0.0.1:$port
}

start_s3s() {
    local port
    port=$(free_port)
    rm -rf "$servers_dir/s3s"
    mkdir -p "$servers_dir/s3s"
    s3s-fs --host 127.0.0.1 --port "$port" --access-key testkey --secret-key testsecret "$servers_dir/s3s" >"$servers_dir/s3s.log" 2>&1 &
    server_pids+=($!)
    wait_for_port "$port" s3s-fs
    export DORMOUSE_TEST_S3_S3S=http://127.0.0.1:$port
}

start_servers() {
    mkdir -p "$servers_dir"
    say "S3 servers for the tests"
    start_rgw
    start_moto
    if command -v s3s-fs >/dev/null; then
        start_s3s
    else
        say "s3s-fs is not installed: its tests are left out (cargo install s3s-fs --features binary)"
    fi
}

stop_servers() {
    local pid
    for pid in "${server_pids[@]}"; do kill "$pid" 2>/dev/null || :; done
    server_pids=()
    [ -z "${DORMOUSE_S3_DATA:-}" ] || { scripts/s3-server stop; scripts/s3-server wipe; }
}
