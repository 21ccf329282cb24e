"""Compiling a spec for an architecture, on a machine that need not have it."""

from __future__ import annotations

from motet_kernels.gpu.architectures import Architecture
from motet_kernels.gpu.kernel_specs import KernelSpec
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.aot import amdgcn, sass
from benchmarks.aot.figures import Figures


def figures_of(spec: KernelSpec, architecture: Architecture) -> Figures:
    """Compile, or take it from Triton's cache, and read what came out.

    Raises whatever Triton raises for a kernel that does not compile.
    """
    source = ASTSource(
        spec.kernel,
        signature=spec.signature(),
        constexprs=dict(spec.constexprs),
        attrs=spec.attributes(),
    )
    compiled = compile_kernel(
        source,
        target=GPUTarget(architecture.backend, architecture.target, architecture.lanes),
        options={
            "num_warps": spec.num_warps,
            "num_stages": spec.num_stages,
            "enable_fp_fusion": True,  # what a launch has; it would warn that this may change
            **spec.options,
        },
    )
    parameters = [name for name in spec.kernel.arg_names if name in spec.arguments]
    weight = None if spec.weight is None else parameters.index(spec.weight)
    shared = compiled.metadata.shared
    if architecture.backend == "cuda":
        return sass.figures(
            compiled.asm["cubin"], compiled.asm["ptx"], shared, weight, decodes=spec.prmt
        )
    return amdgcn.figures(compiled.asm["amdgcn"], compiled.asm["llir"], shared, weight)
