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
