#!/bin/sh
# Builds the container images with buildah: docker/build.sh [cpu] [gpu]   (both, if none is named)
#
#   BASE          base image: Debian or Ubuntu with Python 3.11 or newer   (python:3.11-slim)
#   NAME          images are called NAME:cpu and NAME:gpu                  (localhost/motet)
#   TORCH_INDEX   package index with the wanted builds of torch            (pip's own)
#   TORCH_BUILD   "any": take whatever build of torch pip finds            (cpu for cpu, cuda for gpu)
#   PIP_CONF      a pip.conf for the build alone; it enters no image
#   BUILD_ARGS    more words for `buildah build`, such as "--volume /srv/wheels:/srv/wheels:ro"
#
#   STORAGE_DRIVER   "vfs" works on every file system and copies each layer (what buildah finds best)
#
# The isolation is chroot if BUILDAH_ISOLATION names no other: it works inside a container too.
set -eu
cd "$(dirname "$0")/.."

export BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}"
buildah=buildah${STORAGE_DRIVER:+" --storage-driver $STORAGE_DRIVER"}
name=${NAME:-localhost/motet}

command -v buildah > /dev/null || {
    echo "build.sh: buildah is not installed. Install it (apt-get install buildah), or use" \
        "docker build -f docker/Dockerfile.cpu . as docs/deployment.md shows" >&2
    exit 1
}

# BUILD_ARGS and the command are lists of words, so they are not quoted.
build() {
    file=$1 tag=$2
    # The format: OCI's own has no place for a health check.
    # shellcheck disable=SC2086
    $buildah build --format docker --file "docker/$file" --tag "$name:$tag" \
        ${BASE:+--build-arg "BASE=$BASE"} \
        ${TORCH_INDEX:+--build-arg "TORCH_INDEX=$TORCH_INDEX"} \
        ${TORCH_BUILD:+--build-arg "TORCH_BUILD=$TORCH_BUILD"} \
        --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
        --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || true)" \
        ${PIP_CONF:+--secret "id=pip,src=$PIP_CONF"} \
        ${BUILD_ARGS:-} .
}

[ $# -gt 0 ] || set -- cpu gpu
for kind in "$@"; do
    case $kind in
        cpu) build Dockerfile.cpu cpu ;;
        gpu) build Dockerfile gpu ;;
        *) echo "build.sh: $kind is no image; name cpu or gpu" >&2; exit 1 ;;
    esac
done
$buildah images --filter "reference=$name"
