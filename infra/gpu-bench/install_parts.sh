#!/bin/sh
# On the GPU machine: join the parts that collect_wheels.sh made and install them into SITE_DIR.
#   infra/gpu-bench/install_parts.sh PARTS_DIR SITE_DIR;  export PYTHONPATH=SITE_DIR
set -eu
parts=$1
site=$2
cat "$parts"/part-* | tar -C "$parts" -xf -
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$parts"/wheels/*.whl
rm -rf "$parts/wheels"
