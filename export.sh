#!/bin/sh
# Export the image as one file: ./export.sh [IMAGE [FOLDER]]
# Writes kits-cascade-VERSION.tar.gz, its .sha256 and .sbom.json (packages with versions and licences).
set -eu
image=${1:-kits-cascade}
folder=${2:-out}
here=$(dirname "$(realpath -- "$0")")

if ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "There is no image $image; build it first: docker build -t $image $here" >&2
    exit 2
fi
version=$(docker run --rm --network none --entrypoint python "$image" -c 'import kits; print(kits.__version__)')
name=kits-cascade-$version
mkdir -p "$folder"
cd "$folder"

# Written aside and renamed, so that what has its name is whole.
trap 'rm -f ".$name".*' EXIT
docker run --rm --interactive --network none --entrypoint python "$image" - "$version" \
    <"$here/.ci/sbom.py" >".$name.sbom.json"
mkfifo ".$name.pipe"  # POSIX shells tell nothing of a failure left of a pipe
docker save "$image" >".$name.pipe" &
saving=$!
if command -v pigz >/dev/null; then pigz; else gzip; fi <".$name.pipe" >".$name.tar.gz"
wait "$saving"

mv ".$name.sbom.json" "$name.sbom.json"
mv ".$name.tar.gz" "$name.tar.gz"
sha256sum "$name.tar.gz" >"$name.tar.gz.sha256"
du -h "$name.tar.gz" | awk '{print $2 ": " $1}'
cat "$name.tar.gz.sha256"
