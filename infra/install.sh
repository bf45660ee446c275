#!/bin/sh
# Install the pinned packages and this project into .venv:  infra/install.sh cpu|gpu
set -eu
kind=$1
python=.venv/bin/python
uv_version=0.13.9
torch_cpu=2.13.0+cpu
torch_cpu_index=https://download.pytorch.org/whl/cpu

"$python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"

pip_settings=$("$python" -m pip config list)
pip_setting() {
    for section in :env: install global; do
        value=$(printf '%s\n' "$pip_settings" | sed -n "s/^$section\.$1='\(.*\)'\$/\1/p")
        if [ -n "$value" ]; then
            printf '%b\n' "$value" # pip lists several lines as one, with \n between them
            return
        fi
    done
}

# uv reads neither pip's configuration nor its variables, and often only those name a machine's package locations.
# pip takes the pinned version from any location that has it; by default uv stops at the first that knows the package.
set -- --index-strategy unsafe-best-match
for name in find-links index-url extra-index-url; do
    for location in $(pip_setting "$name"); do
        set -- "$@" "--$name" "$location"
    done
done

install() {
    .venv/bin/uv pip install --python "$python" --no-deps "$@"
}

if [ "$kind" = cpu ]; then
    install --quiet "$@" "torch==$torch_cpu" 2>/dev/null || install --index-url "$torch_cpu_index" "torch==$torch_cpu"
fi
install --quiet "$@" -r "infra/requirements/$kind.txt"
install --quiet --no-build-isolation -e .
