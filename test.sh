#!/bin/sh
# Lint, types, tests, process.py as an organiser runs it, and the same in the container: ./test.sh [options of pytest]
set -eu
cd "$(dirname "$0")"
.ci/venv.sh requirements-dev.txt
python=.venv/bin/python
$python -m kits.batch.viewer.fetch --if-missing || echo "Without NiiVue the tests of viewer pages are skipped."
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy
$python -m pytest "$@"
$python -m test.fuzz --seconds 60
$python -m test.container
test/container.sh
