#!/bin/sh
# Make .venv and install a requirements file into it, each only where needed: .ci/venv.sh requirements.txt
# PYTHON names another interpreter than the first fit one of python3, python3.12, python3.11 and python3.10.
set -eu
cd "$(dirname "$0")/.."
requirements=$1

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

if ! { fits .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if fits "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "No Python 3.10 to 3.13 found (looked for ${PYTHON:-python3, python3.13, python3.12, python3.11, python3.10});" \
            "install one or name it: PYTHON=/path/to/python3.12" >&2
        exit 2
    fi
    echo "Making .venv with $("$python" --version) ..." >&2
    if ! "$python" -m venv --clear .venv >&2; then
        rm -rf .venv
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        echo "$python cannot make a virtual environment; install its venv module first:" \
            "sudo apt-get install -y $version-venv" >&2
        exit 2
    fi
fi

# Requirements files include one another, so any one's change counts.
stamp=.venv/$requirements.sha256
wanted=$(cat requirements*.txt | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing $requirements into .venv ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    echo "$wanted" >"$stamp"
fi
