"""Triton kernels: for each operator a function of its signature, for CUDA tensors.

Under ``TRITON_INTERPRET=1`` they run on CPU tensors too, which is how they are tested without a GPU.
"""
