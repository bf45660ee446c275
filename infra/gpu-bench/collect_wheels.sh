#!/bin/sh
# On a machine with a package index: download what a GPU machine without network lacks, and split it for the transfer.
#   infra/gpu-bench/collect_wheels.sh DIR [REQUIREMENTS...]        PART_BYTES: size of a part
# The GPU machine is expected to have Python 3.12, CUDA 13.0 and torch 2.11.0. requirements-vllm-0.32.txt brings a newer
# torch along; requirements-vllm-0.25.txt takes vLLM 0.25.1, which pins the machine's torch and triton. For the peers of
# harvest bench give requirements-datatrove.txt, and requirements-ray.txt if Ray is wanted, beside the first.
set -eu
out=$1
here=$(dirname "$0")
part_bytes=${PART_BYTES:-58000000}
shift
[ $# -gt 0 ] || set -- "$here/requirements-vllm-0.32.txt"
lists=
for list in "$@"; do lists="$lists -r $list"; done
mkdir -p "$out/wheels"
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_35_x86_64 --platform manylinux_2_34_x86_64 --platform manylinux_2_31_x86_64 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_26_x86_64 \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 --platform manylinux_2_5_x86_64 \
    --platform manylinux1_x86_64 -d "$out/wheels" $lists
# the project's processes start Python with -P, so the project must be installed
python3 -m pip wheel --quiet --no-deps -w "$out/wheels" "$here/../.."
# wheels are compressed already, so the archive is not
tar -C "$out" -cf "$out/wheels.tar" wheels
split -b "$part_bytes" -d "$out/wheels.tar" "$out/part-"
rm "$out/wheels.tar"
ls -l "$out"/part-*
