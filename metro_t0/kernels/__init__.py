"""Triton kernels beside the model: chosen by name, held against their definitions by the interpreter."""
