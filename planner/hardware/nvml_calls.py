"""Functions of pynvml by name, with a record of what was not answered."""

from typing import Any

import pynvml

GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
USUAL = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
)
"""Errors by which a driver says that it, or this device, does not have a call."""
ABSENT = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT)
"""Errors by which it says that there is no such link, slice or process."""


class DeviceLostError(Exception):
    """The GPU is there and does not answer any more."""


class Driver:
    """One session with NVML."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.unsupported: set[str] = set()

    def ask(self, call: str, *arguments: object) -> Any:
        """Return the call's answer; None where this driver or this device has none."""
        try:
            return self._answer(call, *arguments)
        except pynvml.NVMLError as error:
            if error.value in GONE:
                raise DeviceLostError(str(error)) from error
            if error.value in USUAL:
                self.unsupported.add(call)
            elif error.value not in ABSENT:
                self.failed.append(f"{call} ({error})")
        except UnicodeDecodeError:
            self.failed.append(f"{call} (not UTF-8)")
        return None

    def insist(self, call: str, *arguments: object) -> Any:
        """Return the answer of a call without which there is no device.

        Raises DeviceLostError where there is none.
        """
        try:
            return self._answer(call, *arguments)
        except pynvml.NVMLError as error:
            raise DeviceLostError(str(error)) from error

    def _answer(self, call: str, *arguments: object) -> Any:
        """Return the answer of a call; older releases of pynvml lack the newer calls."""
        function = getattr(pynvml, call, None)
        if function is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return function(*arguments)
