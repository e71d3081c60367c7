#!/bin/sh
# Lint, types, tests, a smoke check of process.py, and the container (if docker is here): ./test.sh [options of pytest]
set -eu
cd "$(dirname "$0")"
.ci/venv.sh requirements-dev.txt
python=.venv/bin/python
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy
$python -m pytest "$@"
$python -m test.smoke
test/container.sh
