# shellcheck shell=bash
# Sourced by scripts/test-beside and scripts/soak: programs that run beside the tests.

beside_pids=()

# beside PROGRAM ARGUMENTS: however this script ends, the program ends with it.
beside() { setpriv --pdeathsig KILL "$@" & beside_pids+=($!); }

# compute_beside N: so many programs that compute.
compute_beside() {
    for _ in $(seq "$1"); do
        beside sh -c 'while :; do :; done'
    done
}

end_beside() {
    kill "${beside_pids[@]}" 2>/dev/null || :
    wait "${beside_pids[@]}" 2>/dev/null || :
}
