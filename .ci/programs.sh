#!/bin/sh
# Install Debian's programs that some tests use where they are missing: a browser, and checkers of DICOM objects.
# Without the right to, or elsewhere than on Debian, those tests are skipped, and say so.
set -eu
missing=
for one in chromium:chromium dciodvfy:dicom3tools; do
    command -v "${one%%:*}" >/dev/null || missing="$missing ${one##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed:$missing; the tests that need them will be skipped."
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
# shellcheck disable=SC2086  # a list of words
apt-get install -qq -y --no-install-recommends $missing >/dev/null
