"""Triton kernels, one operator family a file, each with the host function that launches it. No autograd here."""
