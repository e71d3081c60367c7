#!/bin/sh
# Build the CPU image and check it as organisers run it; where no docker works, check process.py in the same way.
# TORCH_INDEX names the index that has torch's CPU build (default: where its makers publish it).
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
if ! docker info >/dev/null 2>&1; then
    echo "No docker works here; checking process.py instead of the container."
    exec $python -m test.container
fi
image=kits-cascade:test
docker build --tag "$image" --build-arg TORCH=cpu \
    --build-arg TORCH_INDEX="${TORCH_INDEX-https://download.pytorch.org/whl/cpu}" .
$python -m test.container "$image"
test/export.sh "$image"
