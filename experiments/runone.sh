#!/bin/bash
# runone.sh NAME FOLD ENV... -- extra args of fit
name=$1; fold=$2; shift 2
envs=(); while [ "$1" != "--" ]; do envs+=("$1"); shift; done; shift
env OMP_NUM_THREADS=1 X_COMPILE=1 TORCHINDUCTOR_CACHE_DIR=runs/inductor "${envs[@]}" .venv/bin/python -m train fit wide-unet2 --cache runs/cache --folder runs/x/$name --fold $fold/3 --threads 1 "$@" > runs/log/x-$name.txt 2>&1
