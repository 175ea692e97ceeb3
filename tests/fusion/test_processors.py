"""The numerical tests under the BLAS kernels of other processors: each orders a sum's terms in its own way.

OpenBLAS chooses its kernel when it is loaded, so each needs a process of its own; two run at a time, on one thread each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from numpy._core._multiarray_umath import __cpu_features__
from threadpoolctl import threadpool_info

REPOSITORY = Path(__file__).parents[2]
NUMERICAL = [f"tests/fusion/test_{name}.py" for name in ("simplex", "likelihood", "weights", "calibration")]
KERNELS = {"Haswell": "AVX2", "SkylakeX": "AVX512_SKX", "Sandybridge": "AVX"}  # and what each needs; a Zen runs Haswell's
SAID = "import numpy, threadpoolctl, sys; sys.stdout.write(threadpoolctl.threadpool_info()[0]['architecture'])"


def run(kernel: str, *command: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=env, capture_output=True, text=True)


def others() -> list[str]:
    """The kernels that this processor can run and does not run already; none where numpy's BLAS is not OpenBLAS on x86."""
    here = {info.get("architecture") for info in threadpool_info() if info["internal_api"] == "openblas"}
    able = [kernel for kernel, feature in KERNELS.items() if __cpu_features__.get(feature) and kernel not in here]
    return [kernel for kernel in able if here]


def test_numbers_hold_under_the_kernels_of_other_processors():
    kernels = others()
    with ThreadPoolExecutor(2) as two:
        said = list(two.map(lambda kernel: run(kernel, "-c", SAID).stdout, kernels))
        ends = list(two.map(lambda kernel: run(kernel, "-m", "pytest", "-q", "-x", *NUMERICAL), kernels))
    assert said == kernels  # each was really in force
    assert {kernel: end.stdout[-3000:] + end.stderr[-1000:] for kernel, end in zip(kernels, ends) if end.returncode} == {}
