"""Which kernels of scaled dot-product attention a run may take."""

import torch


def pin_attention_backends() -> None:
    """Leave PyTorch the backends whose memory the plan counts: flash and memory-efficient.

    PyTorch 2.13 prefers cuDNN's on compute capability 9.0 and 10.0, whose workspace is not known.
    read: sdp_utils.cpp below aten/src/ATen/native/transformers/cuda at 2.13,
    check_prefer_cudnn_attention.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
