"""Kernels for a CPU's evaluation: Winograd convolutions and fused blocks of packed weights."""
