#!/bin/sh
# Export an image, load it back under no name but its own, and run it: test/export.sh IMAGE
set -eu
image=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$(dirname "$0")/../export.sh" "$image" "$folder"
cd "$folder"
sha256sum --check --quiet ./*.sha256
python3 -c '
import glob, json
(path,) = glob.glob("*.sbom.json")
names = {part["name"].lower(): part for part in json.load(open(path))["components"]}
missing = {"torch", "simpleitk", "libc6", "res-unet1"} - set(names)
assert not missing, f"{path} lacks {missing}"
assert all(part["licenses"] for part in names.values())
'
docker rmi --force "$image" >/dev/null  # podman may still be clearing away a container that has just ended
docker load --input ./*.tar.gz >/dev/null
docker run --rm --network none "$image" --help >/dev/null
echo "The exported image loads and runs."
