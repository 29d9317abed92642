"""The exceptions tensorlib raises: each is also the built-in type that PyTorch raises in the same case."""


class TensorlibError(Exception):
    """Base of every error that tensorlib raises on purpose."""


class ShapeError(TensorlibError, RuntimeError):
    """Shapes do not fit the operator."""


class DtypeError(TensorlibError, RuntimeError):
    """The operator does not take these dtypes, or does not take them together."""


class DeviceError(TensorlibError, RuntimeError):
    """A device is missing, unknown, or not the one the other operands are on."""


class DimError(TensorlibError, IndexError):
    """A dimension or an index is out of range."""


class RangeError(DimError, RuntimeError):
    """An index tensor points outside, or dims repeat. PyTorch raises IndexError or RuntimeError: this is both."""


class ArgumentError(TensorlibError, ValueError, RuntimeError):
    """An argument has the right type and an impossible value. PyTorch raises now one, now the other: this is both."""


class OutOfMemoryError(TensorlibError, MemoryError, RuntimeError):
    """More memory than there is. PyTorch raises RuntimeError, NumPy MemoryError: this is both."""


class UnsupportedError(TensorlibError, NotImplementedError):
    """A combination of arguments that PyTorch does not have either: its NotImplementedError (a RuntimeError)."""


class LinAlgError(TensorlibError, RuntimeError):
    """A matrix is singular, not positive definite, or an iteration did not converge."""


class AutogradError(TensorlibError, RuntimeError):
    """A gradient was asked for that the recorded graph cannot give."""


class KernelError(TensorlibError, RuntimeError):
    """A Triton kernel failed to compile or to run."""


class DriverError(DeviceError):
    """A call of the GPU's driver failed: ``error_code`` is the driver's number, ``error_name`` its name for it."""

    def __init__(self, message: str, error_code: int = 0, error_name: str = "") -> None:
        super().__init__(message)
        self.error_code = error_code
        self.error_name = error_name


class CaptureError(DeviceError):
    """What cannot be recorded was asked for while a graph is captured."""


class CheckpointError(TensorlibError, RuntimeError):
    """A checkpoint is missing, damaged, or of another model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no file to load, or no folder to save to. PyTorch raises FileNotFoundError or RuntimeError: both."""


class AmbiguousError(TensorlibError, RuntimeError):
    """The truth of a tensor that has more or fewer than one element."""
