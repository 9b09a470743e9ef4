#!/usr/bin/env bash
# part.sh NAME MINUTES COMMAND…: runs one part of the tests, says how long it took and ends as it did. When PARTS names a
# file, the part is stopped at its minutes and a line is added there: name, seconds, minutes, passed, failed.
set -uo pipefail
name=$1 minutes=$2
shift 2

log=$(mktemp)
trap 'rm -f "$log"' EXIT
limit=()
[ -n "${PARTS:-}" ] && limit=(timeout --kill-after=20 "${minutes}m")

echo "== $name: up to $minutes min"
begun=$SECONDS
${limit[@]+"${limit[@]}"} "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}
seconds=$((SECONDS - begun))

read -r passed failed < <(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$log")
# A part that runs no test harness counts as one; one that breaks outside its tests is not green for it.
[ "$code" = 0 ] && [ "$passed" = 0 ] && passed=1
[ "$code" != 0 ] && [ "$failed" = 0 ] && failed=1
[ "$code" = 124 ] && echo "== $name: stopped, it is over its $minutes min"
printf '== %s: %d.%d min\n' "$name" $((seconds / 60)) $((seconds % 60 / 6))
[ -n "${PARTS:-}" ] && printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$seconds" "$minutes" "$passed" "$failed" >>"$PARTS"
exit "$code"
