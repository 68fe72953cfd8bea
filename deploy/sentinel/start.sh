#!/bin/sh
# start.sh FILE LINE...: run the server of a configuration file that it may rewrite: a copy in the
# working directory, with further lines. An earlier start's copy stays: it knows the primary.
set -eu
file=$1
copy=$(basename "$file")
shift
if [ ! -e "$copy" ]; then
    { cat "$file"; printf '%s\n' "$@"; } >"$copy.new"
    mv "$copy.new" "$copy"
fi
case $copy in
    sentinel.conf) exec redis-server "$PWD/$copy" --sentinel ;;
    *) exec redis-server "$PWD/$copy" ;;
esac
