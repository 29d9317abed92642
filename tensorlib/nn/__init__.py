"""Layers, losses, containers and initialisation: PyTorch's names, parameters and state."""

from tensorlib.nn import functional, init, utils
from tensorlib.nn.activation import (
    ELU,
    GELU,
    GLU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from tensorlib.nn.attention import MultiheadAttention
from tensorlib.nn.batchnorm import BatchNorm1d, BatchNorm2d
from tensorlib.nn.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from tensorlib.nn.conv import Conv2d
from tensorlib.nn.dropout import Dropout
from tensorlib.nn.flatten import Flatten, Unflatten
from tensorlib.nn.linear import Bilinear, Identity, Linear
from tensorlib.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import GroupNorm, LayerNorm, RMSNorm
from tensorlib.nn.parameter import Buffer, Parameter
from tensorlib.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from tensorlib.nn.sparse import Embedding

__all__ = [
    "ELU", "GELU", "GLU", "SELU", "AdaptiveAvgPool2d", "AvgPool2d", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d",
    "BatchNorm2d", "Bilinear", "Buffer", "Conv2d", "CrossEntropyLoss", "Dropout", "Embedding", "Flatten", "GroupNorm",
    "Hardsigmoid", "Hardswish", "Hardtanh", "HuberLoss", "Identity", "KLDivLoss", "L1Loss", "LayerNorm", "LeakyReLU",
    "Linear", "LogSigmoid", "LogSoftmax", "MSELoss", "MaxPool2d", "Mish", "Module", "ModuleDict", "ModuleList",
    "MultiheadAttention", "NLLLoss", "PReLU", "Parameter", "ParameterDict", "ParameterList", "RMSNorm", "ReLU",
    "ReLU6", "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Softsign", "Tanh", "Unflatten",
    "functional", "init", "utils",
]  # fmt: skip
