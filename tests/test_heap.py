import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from mapsto import heap
if {kept}:
    heap.keep()
for i in range(40):
    if i == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults of Linux")
def test_kept_memory_costs_no_page_faults_again() -> None:
    def faults(kept: bool) -> int:
        found = subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, check=True)
        return int(found.stdout)

    assert faults(True) < faults(False) / 10
