#!/bin/sh
# `make gpu-check` on a machine with a GPU: an environment with the GPU build of vLLM, made once, and
# then the check in it. GPU_VENV names one that is there already. Arguments go to `bench gpu`.
set -eu

venv=${GPU_VENV:-.venv-gpu}
if [ ! -x "$venv/bin/serve-app" ]; then
    echo "Making $venv with the GPU build of vLLM"
    # PYTHON may name the interpreter, as for the other targets.
    "${PYTHON:-python3}" -m venv "$venv"
    if [ -f requirements/gpu.txt ]; then
        "$venv/bin/pip" install --no-deps --require-hashes -r requirements/gpu.txt
        "$venv/bin/pip" install --no-deps --no-build-isolation -e .
    else
        "$venv/bin/pip" install -e '.[gpu]'
    fi
fi
exec "$venv/bin/serve-app" bench gpu --log=docs/bench-log.md "$@"
