#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under ten minutes: builds the CUDA operators, runs their GPU
# tests and compute-sanitizer, and prints the benchmark. Logs go to $OUT. Needs torch with CUDA, numpy, pytest,
# torchvision and nvcc, and hypothesis for the fuzz tests; no other dependency of the package.
#   OUT=/tmp/gpu bash benchmarks/gpu_session.sh
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-.}
mkdir -p "$out"
failed=0

step() {  # step NAME SECONDS COMMAND...: its output goes to NAME.log, the end of it to the terminal
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
    echo "== $name: done in $((SECONDS - begin)) s"
  else
    echo "== $name: FAILED ($?) after $((SECONDS - begin)) s"
    failed=1
  fi
  tail -n "${LINES_SHOWN:-15}" "$out/$name.log"
}

export PYTHONPATH=$PWD/src TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} MAX_JOBS=${MAX_JOBS:-8}
export AVFUSION_BUILD=cuda
tests=(tests/unit/test_ops_cuda.py tests/unit/test_ops_cuda_fuzz.py)

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >"$out/device.log" 2>&1
step build 200 python setup.py build_ext --inplace
step tests 90 python -m pytest -q -p no:cacheprovider -m gpu "${tests[@]}"
if command -v compute-sanitizer >/dev/null; then
  step sanitizer 90 compute-sanitizer --error-exitcode 3 \
    python3 -m pytest -q -p no:cacheprovider -m gpu -k "sanitizer and (dtype0 or fuzz)" "${tests[@]}"
else
  echo "== sanitizer: no compute-sanitizer on this machine"
fi
LINES_SHOWN=80 step benchmark 200 python benchmarks/ops_cuda.py
exit $failed
