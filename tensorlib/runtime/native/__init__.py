"""Triton kernels as machine code of the host: Triton's own IR, lowered to LLVM IR and compiled."""
