#!/bin/bash
# Everything that a machine with one GPU should show, in about seven minutes, the most wanted first:
#
#     benchmarks/gpu_card.sh [FOLDER]        (default: build/gpu-card)
#
# The package and pytest must be importable by `python3` (or PYTHON). Each step writes its own file into FOLDER, has a
# limit of its own and is left out once the whole has taken too long, so that a machine that is taken away leaves what
# was found. compute-sanitizer and ncu come with the CUDA toolkit; without them their steps say so.
set -u
cd "$(dirname "$0")/.."
folder=${1:-build/gpu-card}
python=${PYTHON:-python3}
mkdir -p "$folder"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 COLUMNS=110
MOST=${MOST:-420}
failed=0

# step NAME LIMIT COMMAND...: run the command, keep what it prints, go on whatever it ends with.
step() {
    local name=$1 limit=$2
    shift 2
    local left=$((MOST - SECONDS))
    if [ "$left" -lt 15 ]; then
        echo "== $name: left out after $SECONDS s"
        return
    fi
    echo "== $name (at $SECONDS s)"
    timeout "$((limit < left ? limit : left))" "$@" >"$folder/$name.txt" 2>&1
    local code=$?
    [ "$code" -eq 0 ] || failed=1
    tail -n "${LINES_SHOWN:-40}" "$folder/$name.txt"
    echo "-- $name: exit code $code"
}

step machine 30 bash -c "
    nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.sm,clocks.mem --format=csv
    $python -c 'import cupy, dask, numba, numpy, scipy, zarr
for module in (cupy, dask, numba, numpy, scipy, zarr):
    print(module.__name__, module.__version__)'"
# Other test files need packages that a bare machine lacks.
step tests 150 "$python" -m pytest -q -m gpu -p no:cacheprovider --durations=5 tests/gpu/test_device.py tests/gpu/test_card.py
step check-gpu 40 "$python" -m daskptycho check-gpu
step poster 60 "$python" benchmarks/gpu_runs.py --part poster --part host
LINES_SHOWN=120 step kernels 110 "$python" benchmarks/gpu.py
step runs 90 "$python" benchmarks/gpu_runs.py --part memory --part workers --part tiles

# Without CuPy's pool, or the checker does not know where an array ends.
cat >"$folder/without_pool.py" <<'P'
import sys

import cupy
import pytest

cupy.cuda.set_allocator(None)
chosen = "kernel and card and not 67"
sys.exit(pytest.main(["-q", "-x", "-m", "gpu", "-p", "no:cacheprovider", "-k", chosen, "tests/gpu/test_device.py"]))
P
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
        LINES_SHOWN=8 step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" "$folder/without_pool.py"
    else
        echo "== $tool: compute-sanitizer is not on the PATH"
    fi
done
if command -v ncu >/dev/null; then
    LINES_SHOWN=30 step ncu 45 ncu --clock-control none --csv -c 60 \
        --metrics dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum "$python" -c "
import cupy, numpy as np
from daskptycho import backend
random = np.random.default_rng(0)
for size, frames in ((32, 16384), (64, 4096), (128, 1024), (256, 256)):
    waves = cupy.asarray(random.normal(size=(frames, 1, size, 2 * size)).astype(np.float32)).view(np.complex64)
    backend.transform(waves, unitary=False, overwrite=True)"
else
    echo "== ncu: it is not on the PATH"
fi
echo "done after $SECONDS s; all of it is in $folder"
exit "$failed"
