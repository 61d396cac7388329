#!/bin/sh
# Gives the process the kernels that were compiled with the image, to use and to add to: the image
# itself cannot be written, and compiling them costs every node about eleven seconds.
set -eu
mkdir -p "$NUMBA_CACHE_DIR"
cp -rn /opt/milepost/kernels/. "$NUMBA_CACHE_DIR"
exec "$@"
