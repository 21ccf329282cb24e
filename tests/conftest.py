"""What has to be settled before any test module is imported."""

import os

# Read when torch brings OpenMP in. Each process has as many threads as there are cores; where tests
# run in several, threads that wait by spinning keep others from the work they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

# Triton reads it when its own library and our kernels are decorated, so before anything that a
# test imports brings Triton in. Without a GPU its kernels run through the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
