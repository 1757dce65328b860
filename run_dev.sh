#!/bin/sh
# The name by which earlier users know it; `make run` does the work.
set -eu
cd "$(dirname "$0")"
exec make run ARGS="$*"
