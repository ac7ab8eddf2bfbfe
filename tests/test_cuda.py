"""What can be tested of the CUDA kernels without a GPU; `make cuda` checks more."""

from pathlib import Path

import pytest
from processes import output_of, program_built_in

import ste


@pytest.mark.repository
@pytest.mark.skipif(ste.backend().name != "native", reason="of ste-core's sources")
def test_sums_of_the_kernels_on_the_cpu(tmp_path: Path) -> None:
    output_of(program_built_in(tmp_path, "sums"))
