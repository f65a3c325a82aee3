"""Measures the machine: what is installed, and what its basic operations cost."""

from __future__ import annotations

import os
import platform

import torch
import transformers

from benchmarks.gpu_parts import Parts
from benchmarks.gpu_timing import milliseconds


def show_versions(device: torch.device, parts: Parts) -> None:
    """Record what is installed, and the names of the devices."""
    parts.found("Python", platform.python_version())
    parts.found("PyTorch", str(torch.__version__))
    parts.found("transformers", transformers.__version__)
    parts.found("CPU cores", os.cpu_count() or 0)
    parts.found("device", str(device))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        parts.found("GPU", properties.name)
        parts.found("GPU memory", properties.total_memory / 2**30, "GiB")
        parts.found("CUDA of PyTorch", str(torch.version.cuda))


def measure_machine(device: torch.device, parts: Parts) -> None:
    """Record times of single operations, memory bandwidth and matrix products."""
    # A CPU needs far longer for the same, and here it only shows that the code runs.
    is_large = device.type == "cuda"
    one = torch.zeros(16, device=device)
    launch = milliseconds(device, lambda: one.add_(1), 2000 if is_large else 200)
    parts.found("launching a kernel", 1000 * launch, "µs")
    item = milliseconds(device, one[0].item, 200)
    parts.found("reading one number (.item())", 1000 * item, "µs")

    tokens = [1] * 256
    upload = milliseconds(device, lambda: torch.tensor(tokens, device=device), 200)
    parts.found("256 tokens from a list to the device", 1000 * upload, "µs")
    activations = torch.zeros(5, 33, 4096, device=device)
    download = milliseconds(device, activations.cpu, 30)
    parts.found("sums of one answer (5 × 33 × 4096) to the CPU", 1000 * download, "µs")

    numbers = torch.zeros(2**28 if is_large else 2**20, device=device)
    scaled = milliseconds(device, lambda: numbers.mul_(1), 10)
    # Each number is read and written.
    parts.found("memory bandwidth", 2 * numbers.nbytes / scaled / 1e6, "GB/s")
    width = 8192 if is_large else 256
    matrix = torch.randn(width, width, device=device, dtype=torch.bfloat16)
    product = milliseconds(device, lambda: matrix @ matrix, 10)
    parts.found("matrix products in bfloat16", 2 * width**3 / product / 1e9, "TFLOP/s")
