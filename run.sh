#!/bin/sh
# Segment kidneys and kidney tumours: ./run.sh INPUT OUTPUT [options of process.py]
# Without arguments: fetch an example scan, segment it, score it and draw a picture.
set -eu
here=$(dirname "$(realpath -- "$0")")
python=$here/.venv/bin/python

if [ $# -eq 1 ]; then
    echo "Usage: ./run.sh [INPUT OUTPUT [options of process.py]]; with no arguments it runs on an example scan." >&2
    exit 2
fi

"$here/.ci/venv.sh" requirements.txt
if [ $# -gt 1 ]; then
    input=$1 output=$2
    shift 2
    exec "$python" "$here/process.py" --input "$input" --output "$output" "$@"
fi

cd "$here"
"$python" -m kits.demo --cache .cache --output out/demo
"$python" process.py --input .cache/demo/input --output out/demo --overlays out/demo/overlays \
    --report out/demo/report.json
"$python" -m kits.score out/demo .cache/demo/reference
"$python" -m kits.demo --cache .cache --output out/demo --picture
