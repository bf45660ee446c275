#!/bin/sh
# Install the pinned packages and this project into .venv:  infra/install.sh cpu|gpu
set -eu
kind=$1
python=.venv/bin/python
uv_version=0.13.9
torch_cpu=2.13.0+cpu
torch_cpu_index=https://download.pytorch.org/whl/cpu

"$python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"

# uv does not read pip's own variable for further package locations
set -- --python "$python" --no-deps
for location in ${PIP_FIND_LINKS:-}; do
    set -- "$@" --find-links "$location"
done

if [ "$kind" = cpu ]; then
    .venv/bin/uv pip install --quiet "$@" "torch==$torch_cpu" 2>/dev/null ||
        .venv/bin/uv pip install "$@" --index-url "$torch_cpu_index" "torch==$torch_cpu"
fi
.venv/bin/uv pip install --quiet "$@" -r "infra/requirements/$kind.txt"
.venv/bin/uv pip install --quiet --python "$python" --no-deps --no-build-isolation -e .
