#!/bin/sh
# Put FOLDER/database.dump in the place of the database $PGDATABASE. What was there is kept beside it
# under another name, and nothing moves before the dump is restored in full.
#   restore.sh FOLDER
set -eu
folder=${1:?give the folder with database.dump}
here=$(dirname "$0")
: "${PGDATABASE:?name the database}"
side="${PGDATABASE}_restoring"
aside="${PGDATABASE}_before_$(date -u +%Y%m%d%H%M%S)"

query() { # a statement, on the database that is always there
    psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname=postgres --command="$1"
}

(cd "$folder" && sha256sum -c database.dump.sha256)
sh "$here/check.sh" "$folder/database.dump"

dropdb --if-exists --maintenance-db=postgres "$side" # of an attempt that was interrupted
createdb --maintenance-db=postgres --template=template0 "$side"
pg_restore --exit-on-error --no-owner --no-privileges --dbname="$side" "$folder/database.dump"

there=$(query "SELECT count(*) FROM pg_database WHERE datname = '$PGDATABASE'")
users=$(query "SELECT count(*) FROM pg_stat_activity WHERE datname = '$PGDATABASE'")
if [ "$users" -ne 0 ]; then
    echo "error: $users connections to $PGDATABASE; nothing was changed" >&2
    echo "  fix: stop MLflow (kubectl scale deployment/mlflow --replicas=0) and restore again" >&2
    exit 1
fi
if [ "$there" -eq 0 ]; then
    query "ALTER DATABASE \"$side\" RENAME TO \"$PGDATABASE\""
    echo "$PGDATABASE: restored; there was none before"
else
    # Both names or neither: one statement list is one transaction.
    query "ALTER DATABASE \"$PGDATABASE\" RENAME TO \"$aside\"; ALTER DATABASE \"$side\" RENAME TO \"$PGDATABASE\""
    echo "$PGDATABASE: restored; what was there is now $aside (drop it when all is well)"
fi
