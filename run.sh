#!/bin/sh
# Segment kidneys and kidney tumours: ./run.sh INPUT OUTPUT [options of process.py]
# Without arguments: fetch an example scan, segment it, score it and draw a picture.
set -eu

case $# in
0) ;;
1)
    echo "Usage: ./run.sh [INPUT OUTPUT [options of process.py]]; with no arguments it runs on an example scan." >&2
    exit 2
    ;;
*)
    input=$(realpath -m -- "$1")
    output=$(realpath -m -- "$2")
    shift 2
    ;;
esac
here=$(dirname "$(realpath -- "$0")")

if [ -n "${input:-}" ]; then
    "$here/.ci/venv.sh" requirements.txt
    exec "$here/.venv/bin/python" "$here/process.py" --input "$input" --output "$output" "$@"
fi

cd "$here"
.ci/venv.sh requirements.txt
python=.venv/bin/python
$python -m kits.demo --cache .cache --output out/demo
$python process.py --input .cache/demo/input --output out/demo --overlays out/demo/overlays --report out/demo/report.json
$python -m kits.score out/demo .cache/demo/reference
$python -m kits.demo --cache .cache --output out/demo --picture
