# common.sh - what every script here shares. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PENSTOCK_CACHE=${PENSTOCK_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME or PENSTOCK_CACHE must be set}/.cache}/penstock}
export PENSTOCK_CACHE
SCRIPT=${0##*/}

# Progress goes to stderr: stdout belongs to what a script is asked for.
say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs bootstrap for the tiers named and takes over what it found.
need() {
    "$ROOT/script/bootstrap" "$@" || return
    # shellcheck disable=SC1091
    . "$PENSTOCK_CACHE/env.sh"
}

# progress WHAT SECONDS - reads what ninja prints and tells on stderr how far it is: in one line that is written over and over on
# a terminal, elsewhere in a line every SECONDS, so that nobody takes the first build for one that hangs.
progress() {
    local what=$1 every=$2 line at='' told=$SECONDS status terminal=no
    [ ! -t 2 ] || terminal=yes
    while :; do
        status=0
        IFS= read -r -t 1 line || status=$?
        [ "$status" -eq 0 ] || [ "$status" -gt 128 ] || break       # above 128: nothing came in that second
        [[ $status -ne 0 || ! $line =~ ^\[([0-9]+)/([0-9]+)\] ]] ||
            at="$((BASH_REMATCH[1] * 100 / BASH_REMATCH[2])) % (${BASH_REMATCH[1]} of ${BASH_REMATCH[2]})"
        if [ "$terminal" = yes ] && [ -n "$at" ]; then
            printf '\r%s: %s: %s\033[K' "$SCRIPT" "$what" "$at" >&2
        elif [ "$terminal" = no ] && [ $((SECONDS - told)) -ge "$every" ]; then
            told=$SECONDS
            say "$what: ${at:-begun}"
        fi
    done
    [ "$terminal" = no ] || printf '\r\033[K' >&2
}
