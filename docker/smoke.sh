#!/bin/sh
# Runs the server inside an image, as the image's user, who may write to /data and /tmp alone:
#
#   docker/smoke.sh [IMAGE]                 (localhost/motet:cpu)
#
#   BASE_CACHE   a directory that `motet quantize demo` filled; without it the server downloads
#                the demo base
#   RUN_ARGS     more words for `buildah run`, such as "--volume /srv/pip.conf:/etc/pip.conf:ro"
#   MOTET_DEVICE cpu: try the image for GPUs on a machine that has none
#   PORT         port to listen on, on every address of this machine      (18000)
#   START_S      seconds the server may take to listen                    (600)
#
# It must refuse to listen without a tenant, serve with one, write nowhere else, and drain.
# Needs root, buildah, curl and pgrep. Prints /health and a completion; exit code 0 if all held.
set -eu

image=${1:-localhost/motet:cpu}
export PORT="${PORT:-18000}" BUILDAH_ISOLATION=chroot
url=http://127.0.0.1:$PORT
buildah=buildah${STORAGE_DRIVER:+" --storage-driver $STORAGE_DRIVER"}

fail() {
    echo "smoke.sh: $1" >&2
    [ ! -s "$work/log" ] || sed 's/^/    /' "$work/log" >&2
    exit 1
}

clean() {
    [ -z "$server" ] || kill "$server" 2> /dev/null || true
    [ -z "$container" ] || $buildah rm "$container" > /dev/null
    rm -rf "$work"
}

# Root, minus every capability, minus write access to anything but these two: that is what a
# container with a read-only root sees. Signals to `buildah run` kill; see `innermost`.
inside() {
    # shellcheck disable=SC2086  # RUN_ARGS is a list of words
    $buildah run --cap-drop ALL --volume "$work/data:/data" \
        --mount type=tmpfs,destination=/tmp \
        ${MOTET_DEVICE:+--env MOTET_DEVICE="$MOTET_DEVICE"} \
        --env MOTET_PORT="$PORT" --env MOTET_KV_CACHE_BYTES=256MiB ${RUN_ARGS:-} "$container" -- "$@"
}

# The server itself: the last of the processes that `buildah run` started, one by the other.
innermost() {
    pid=$1
    while child=$(pgrep -o -P "$pid"); do pid=$child; done
    echo "$pid"
}

work=$(mktemp -d) server='' container=''
trap clean EXIT
trap 'exit 1' INT TERM
mkdir "$work/data"
[ -z "${BASE_CACHE:-}" ] || cp -R "$BASE_CACHE/bases" "$work/data/"
chown -R 10001:0 "$work/data"
chmod 0770 "$work" "$work/data"
chmod o+x "$work"
container=$($buildah from "$image")
# buildah mounts the image's own volume too, before ours or after it, as it happens to sort them.
$buildah config --volume /data- "$container"

echo "== user"
inside id
[ "$(inside id -u)" != 0 ] || fail "the image runs as root"

echo "== without a tenant"
if inside motet serve > "$work/log" 2>&1; then fail "it served without a tenant"; fi
grep 'No tenant is configured' "$work/log" || fail "it did not say that a tenant is missing"

echo "== with a tenant"
key=$(inside motet tenants create smoke 2> "$work/log") || fail "no tenant could be created"
[ -s "$work/data/motet.sqlite3" ] || fail "the tenant is not in the directory given as /data"
touch "$work/started"
begun=$(date +%s)
inside motet serve > "$work/log" 2>&1 &
server=$!
until inside motet-health > /dev/null 2>&1; do
    kill -0 "$server" 2> /dev/null || { server=''; fail "the server ended before it listened"; }
    [ $(($(date +%s) - begun)) -lt "${START_S:-600}" ] || fail "it does not listen"
    sleep 1
done
echo "listens after $(($(date +%s) - begun)) s"

echo "== GET /health"
curl -sS --fail-with-body "$url/health" > "$work/reply" || fail "/health does not answer"
cat "$work/reply"
echo
if grep -qw avx2 /proc/cpuinfo; then
    grep -Eq '"implementation": *"(cpu-native|gpu)' "$work/reply" || fail "torch serves, not our kernels"
fi

echo "== POST /v1/chat/completions"
model=$(curl -sS --fail-with-body -H "Authorization: Bearer $key" "$url/v1/models" \
    | sed 's/.*"id": *"\([^"]*\)".*/\1/')
curl -sS --fail-with-body "$url/v1/chat/completions" -H "Authorization: Bearer $key" \
    -H 'Content-Type: application/json' -d '{"model": "'"$model"'", "max_tokens": 16,
        "temperature": 0, "messages": [{"role": "user", "content": "What is the capital of France?"}]}' \
    > "$work/reply" || fail "no completion: $(cat "$work/reply")"
cat "$work/reply"
echo
grep -q 'Paris' "$work/reply" || fail "the answer is not Paris"
[ "$(curl -s -o "$work/reply" -w '%{http_code}' "$url/v1/models")" = 401 ] \
    || fail "it answers without a key"

echo "== drain"
kill -TERM "$(innermost "$server")"
wait "$server" || fail "it did not end with exit code 0"
server=''
root=$($buildah mount "$container")
uid=$(stat -c %u "$work/data")
find "$root" -xdev -newer "$work/started" -uid "$uid" ! -type d > "$work/log"
[ ! -s "$work/log" ] || fail "it wrote outside of /data and /tmp:"
echo "ended with exit code 0; wrote nothing but under /data and /tmp:"
(cd "$work/data" && find . -newer "$work/started" -type f)
echo "smoke.sh: all good"
