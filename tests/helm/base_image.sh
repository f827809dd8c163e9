#!/usr/bin/env bash
# A base image under the name that deploy/Dockerfile has, made of Debian's packages: for machines that reach Debian and no image registry.
#   tests/helm/base_image.sh [python:3.11-slim]
set -euo pipefail
name=${1:-python:3.11-slim}
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/base.tar"
container=$(buildah from scratch)
buildah add --quiet "$container" "$folder/base.tar" /
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
buildah commit --quiet --rm "$container" "localhost/$name"
