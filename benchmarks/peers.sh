#!/bin/sh
# Makes .venv-bench, where the peers live: mapsto and its tests need none of them. Run it from a checkout; what does
# not install is left out, and the benchmarks then say "not installed".
set -u
cd "$(dirname "$0")/.."
${PYTHON:-python3} -m venv .venv-bench
pip=".venv-bench/bin/pip install -q -c constraints.txt"
$pip -e . || exit 1
for peer in higher==0.2.1 torchopt==0.7.3 parallel-metalearn==0.5.6 iteryne==0.1.0 jax-meta==1.0.3; do
    $pip "$peer" || echo "peers.sh: $peer did not install" >&2
done
