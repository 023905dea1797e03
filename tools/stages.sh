# Shared by the scripts beside it: `stage NAME COMMAND...` runs a command with its output in a log
# file, prints how long it took, and where it failed shows what failed tests printed and the log's end.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
logs=$root/build/logs
jobs=$(nproc)

say() { printf '%s\n' "$*" >&2; }

stage() { # name command...
  local name=$1 log start=$SECONDS
  shift
  mkdir -p "$logs"
  log=$logs/${name//[^a-zA-Z0-9]/-}.log
  if "$@" > "$log" 2>&1; then
    say "$(printf '%-34s ok      %5d s' "$name" $((SECONDS - start)))"
  else
    say "$(printf '%-34s FAILED  %5d s, the end of %s:' "$name" $((SECONDS - start)) "$log")"
    awk '/^ *[0-9]+\/[0-9]+ Test/ { shown = /\*\*\*(Failed|Timeout|Exception)/ } shown' "$log" |
      head -n 200 >&2
    tail -n 40 "$log" >&2
    return 1
  fi
}
