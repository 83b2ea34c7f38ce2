"""The compiled backends, C++ for CPU tensors and CUDA C++ for CUDA tensors: each file allocates and makes one call."""
