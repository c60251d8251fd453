#!/bin/sh
# Is a dump whole? Its table of contents stands at its beginning, so that alone does not tell:
# all of it is read.
#   check.sh FILE
set -eu
file=${1:?give the dump}

tables=$(pg_restore --list "$file" | grep -c ' TABLE DATA ' || true)
if [ "$tables" -eq 0 ]; then
    echo "error: $file holds no table that pg_restore can read" >&2
    exit 1
fi
if ! pg_restore --file=/dev/null "$file"; then
    echo "error: $file is damaged or was cut off" >&2
    exit 1
fi
echo "$file: whole, $tables tables"
