#!/usr/bin/env bash
# `make test-image`: builds docker/Dockerfile with buildah on a Debian 12 that debootstrap makes, and looks inside.
# Needs root, buildah and debootstrap (Debian: apt-get install buildah debootstrap), and about 8 GB. IMAGE_BUILD_OPTIONS
# goes to `buildah build`, such as --volume=/etc/pip.conf:/etc/pip.conf:ro where packages come from a mirror.
set -euo pipefail
cd -P "$(dirname "$0")/.."
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "test-image: no $tool found (apt-get install buildah debootstrap)" >&2; exit 2; }
done
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=chroot
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"; buildah rm "${made[@]}" >/dev/null 2>&1 || true' EXIT
made=()

if ! buildah inspect --type image duplet-base >/dev/null 2>&1; then
    echo "test-image: a Debian 12 to start from" >&2
    debootstrap --variant=minbase bookworm "$scratch/root" >"$scratch/log" 2>&1 || { tail "$scratch/log" >&2; exit 1; }
    base=$(buildah from scratch)
    made+=("$base")
    buildah add --quiet "$base" "$scratch/root" / >/dev/null
    buildah commit --quiet "$base" duplet-base >/dev/null
fi
echo "test-image: building" >&2
# shellcheck disable=SC2086  # several options
buildah build --quiet --layers --format docker --build-arg BASE=localhost/duplet-base ${IMAGE_BUILD_OPTIONS:-} \
    -f docker/Dockerfile -t duplet . >/dev/null
inside=$(buildah from localhost/duplet)
made+=("$inside")
run() { buildah run "$inside" -- "$@"; }

fail() { echo "test-image: $1" >&2; exit 1; }
[ "$(run id -u)" = 1000 ] || fail "runs as $(run id -un)"
for tool in gcc cc g++ c++ make cmake ld as; do
    ! run sh -c "command -v $tool" >/dev/null 2>&1 || fail "$tool is left in it"
done
for tool in mpirun pgrep /usr/sbin/sshd; do run sh -c "command -v $tool" >/dev/null || fail "there is no $tool"; done
! run pip show --quiet pytest pytest-xdist moto wheel >/dev/null 2>&1 || fail "what only developing needs is left in it"
buildah inspect --type image --format '{{.Docker.Config.Healthcheck}}' duplet | grep -q -- --version || fail "no health check"
run duplet doctor || fail "duplet doctor found a lack"
run /usr/bin/env HOME=/tmp sh -c 'cd /tmp && duplet run --help >/dev/null' || fail "duplet run --help"
echo "test-image: $(buildah images --format '{{.Size}}' localhost/duplet), as it should be"
