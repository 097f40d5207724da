"""Code for NVIDIA GPUs: kernels as Triton text, compiled ahead of time to images."""
