"""Host memory of adapters that begin as a part of their base.

One matrix after the other is decomposed in fp32 and parted there
(launcher/adapters/parted_base.py), which leaves the device as it is. A matrix of ``m`` rows and
``n`` columns, ``k`` the fewer of the two, takes at most

    pissa            itself and a copy, U and V, ``k (m + n)``, and LAPACK's workspace
                     ``4 k**2 + 7 k`` and 8 integers per singular value (gesdd, jobz S; read:
                     SRC/sgesdd.f of LAPACK 3.12, and aten/src/ATen/native/BatchLinearAlgebra.cpp
                     at 2.13)
    olora            itself and a copy, which becomes Q or R, and the other one, ``k**2``; factors
                     of reflections, and a workspace of up to 192 columns (geqrf and orgqr, as MKL
                     answers torch 2.13)
    pissa_niter_N    no more than what follows, since its products have the rank's width
    parting          itself, the part, and what is left
"""

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.models.linear import Linear
from planner.plan.adapter_init import OLORA, PISSA
from planner.plan.schema import AdapterSection
from planner.workload.dtypes import Numerics
from planner.workload.workload import Workload

QR_COLUMNS = 192
"""Columns of the workspace of a QR decomposition."""


def parting_bytes(workload: Workload, kinds: Numerics, *, on_device: Device, is_first: bool) -> int:
    """Return the bytes of a rank's host at the largest moment beside the model; 0 for adapters that
    leave the base as it is.

    The first rank decomposes, and keeps A and B of all matrices to write them. A weight is copied
    from the device that has it.
    """
    adapter = workload.settings.adapter
    if adapter is None or not adapter.changes_base:
        return 0
    copied = kinds.frozen if on_device == "cuda" else 0
    kept = workload.trainable_params * kinds.trainable if is_first else 0
    return kept + max(
        matrix.weight_params * copied + FP32_BYTES * _elements(adapter, matrix, is_first=is_first)
        for matrix, _ in workload.counted_adapted
    )


def _elements(adapter: AdapterSection, matrix: Linear, *, is_first: bool) -> int:
    """Return the fp32 numbers of one matrix at its largest moment."""
    rows, columns = matrix.out_features, matrix.in_features
    values = min(rows, columns)
    parting = 3 * rows * columns
    if not is_first or adapter.init not in (OLORA, PISSA):
        return parting
    twice = 2 * rows * columns
    if adapter.init == OLORA:
        return max(parting, twice + values**2 + values * (1 + QR_COLUMNS))
    workspace = 4 * values**2 + 7 * values + 8 * values
    return max(parting, twice + values * (rows + columns) + values + workspace)
