#!/bin/sh
# Makes a base image out of Debian's packages, for machines that reach no image registry:
#
#   docker/base.sh                          makes localhost/motet-base
#   make images BASE=localhost/motet-base   uses it
#
# Needs root, debootstrap and buildah. SUITE chooses the release, MIRROR another mirror.
set -eu

buildah=buildah${STORAGE_DRIVER:+" --storage-driver $STORAGE_DRIVER"}
name=${1:-localhost/motet-base}

for tool in debootstrap buildah; do
    command -v "$tool" > /dev/null || { echo "base.sh: install $tool first" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    "${SUITE:-bookworm}" "$work/tree" ${MIRROR:+"$MIRROR"}
rm -rf "$work"/tree/var/cache/apt/archives/*.deb "$work"/tree/var/lib/apt/lists/*

container=$($buildah from scratch)
trap '$buildah rm "$container" > /dev/null; rm -rf "$work"' EXIT
$buildah add --quiet "$container" "$work/tree" / > /dev/null
$buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env LANG=C.UTF-8 --cmd python3 "$container"
$buildah commit --quiet "$container" "$name" > /dev/null
echo "made $name"
