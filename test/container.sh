#!/bin/sh
# Build the CPU image and check it as organisers run it, and its export; where no docker works, say so.
# With --gpu: the GPU image, some 3 GB to fetch, checked in the same way, on the CPU; TORCH=cuda12 takes the one for CUDA 12.
# TORCH_INDEX names the index that has torch's CPU build (default: where its makers publish it).
set -eu
cd "$(dirname "$0")/.."
if ! docker info >/dev/null 2>&1; then
    echo "No docker works here: the container was not checked, process.py was, in the same way."
    exit
fi
if [ "${1-}" = --gpu ]; then
    image=kits-cascade:gpu-test
    docker build --tag "$image" --build-arg TORCH="${TORCH-cuda}" .
    .venv/bin/python -m test.container "$image"
    exit
fi
image=kits-cascade:test
docker build --tag "$image" --build-arg TORCH=cpu \
    --build-arg TORCH_INDEX="${TORCH_INDEX-https://download.pytorch.org/whl/cpu}" .
.venv/bin/python -m test.container "$image"
test/export.sh "$image"
