#!/bin/sh
# One consistent dump of the database $PGDATABASE, checked before it gets its name.
#   dump.sh FOLDER      writes FOLDER/database.dump and FOLDER/database.dump.sha256
# Where the server is, and the password, libpq reads from PGHOST, PGUSER and PGPASSWORD.
set -eu
umask 077
folder=${1:?give a folder}
here=$(dirname "$0")
: "${PGDATABASE:?name the database}"

rm -f "$folder/database.dump" "$folder/database.dump.sha256"
trap 'rm -f "$folder/part.dump"' EXIT
pg_dump --format=custom --no-owner --no-privileges --file="$folder/part.dump"
sh "$here/check.sh" "$folder/part.dump"
mv "$folder/part.dump" "$folder/database.dump"
# `store.py upload` sends nothing that does not have this hash.
(cd "$folder" && sha256sum database.dump > database.dump.sha256)
