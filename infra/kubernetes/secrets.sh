#!/bin/sh
# Makes the secrets that are not there yet, with random passwords; never changes one, never prints one.
#   secrets.sh            S3 keys from S3_ARTIFACTS, S3_BACKUPS and S3_SERVING, each as ID:SECRET; what is not
#                         given is not made (the pods then get their rights from a role of the cloud)
#   secrets.sh --local    one random pair of keys for the store of the local overlay
# The namespace kubeflow must be there. infra/README.md says what each secret is.
set -eu

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

there() { kubectl --namespace "$1" get secret "$2" >/dev/null 2>&1; }

make() { # namespace, name; NAME=value lines on standard input, where no list of processes shows them
    if there "$1" "$2"; then
        cat >/dev/null
        echo "$1/$2: there, left alone"
    else
        kubectl --namespace "$1" create secret generic "$2" --from-env-file=/dev/stdin >/dev/null
        echo "$1/$2: made"
    fi
}

value() { # namespace, name, key
    kubectl --namespace "$1" get secret "$2" --output "jsonpath={.data.$3}" | base64 -d
}

keys() { # name, ID:SECRET
    printf 'AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n' "${2%%:*}" "${2#*:}" | make graft "$1"
}

kubectl apply --filename "$(dirname "$0")/base/namespace.yaml" >/dev/null
printf 'password=%s\n' "$(random)" | make graft postgres
printf 'admin-password=%s\nsession-key=%s\n' "$(random)" "$(random)" | make graft mlflow
printf 'MLFLOW_TRACKING_USERNAME=reader\nMLFLOW_TRACKING_PASSWORD=%s\n' "$(random)" | make graft mlflow-reader
printf 'MLFLOW_TRACKING_USERNAME=pipeline\nMLFLOW_TRACKING_PASSWORD=%s\n' "$(random)" | make graft mlflow-pipeline
# A pod reads secrets of its own namespace only, and steps run in KFP's.
printf 'MLFLOW_TRACKING_USERNAME=pipeline\nMLFLOW_TRACKING_PASSWORD=%s\n' \
    "$(value graft mlflow-pipeline MLFLOW_TRACKING_PASSWORD)" | make kubeflow mlflow-pipeline

if [ "${1:-}" = --local ]; then
    pair="$(random):$(random)"
    if there graft s3-artifacts; then
        pair="$(value graft s3-artifacts AWS_ACCESS_KEY_ID):$(value graft s3-artifacts AWS_SECRET_ACCESS_KEY)"
    fi
    S3_ARTIFACTS=$pair S3_BACKUPS=$pair S3_SERVING=$pair
fi
[ -z "${S3_ARTIFACTS:-}" ] || keys s3-artifacts "$S3_ARTIFACTS"
[ -z "${S3_BACKUPS:-}" ] || keys s3-backups "$S3_BACKUPS"
[ -z "${S3_SERVING:-}" ] || keys s3-serving "$S3_SERVING"
if [ "${1:-}" = --local ]; then
    kubectl --namespace graft annotate --overwrite secret s3-serving \
        serving.kserve.io/s3-endpoint=object-store.graft:8333 serving.kserve.io/s3-usehttps=0 \
        serving.kserve.io/s3-region=us-east-1 >/dev/null
fi
