"""The benchmarks of devices and of the cost model run, on the smallest net there is."""

from __future__ import annotations

import pytest

from benchmarks import costs, devices
from netc.ir.machine import two_cpus


@pytest.mark.filterwarnings("ignore")
def test_a_net_on_two_devices() -> None:
    case = devices.Case("lenet", 4, "replicate", 1.9, {"replicate": devices.CPUS})
    row = devices.measured(case, 2, two_cpus(), two_cpus())
    assert row.startswith("lenet")
    assert row.endswith("same bits")
    predicted = float(row.split()[-3])
    assert 1.0 < predicted < 2.0


@pytest.mark.filterwarnings("ignore")
def test_a_prediction_beside_a_run() -> None:
    row = costs.measured("lenet", 1, 0.01, two_cpus())
    assert row.seconds > 0
    assert 0.3 < row.plan / row.nodes < 3  # two views of the same work
    assert row.net in str(row)
