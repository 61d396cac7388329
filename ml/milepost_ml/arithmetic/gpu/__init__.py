"""Every operation of exact arithmetic for NVIDIA GPUs, as Triton kernels.

Nothing here is imported before a tensor on a GPU asks for it; Triton comes with PyTorch's builds
for CUDA.  What makes the bits those of docs/spec/arithmetic.md:

- one lane computes one result, or one of the sixteen partial sums of a result, by a loop in the
  order that the rule gives; a kernel never reduces across lanes but by the fold that E6 writes out,
  never uses matrix units, and no two programs write the same number;
- fusion of products and sums is switched off for every launch (`launch.launch`), division and
  square root are the correctly rounded ones, and no result is flushed to zero;
- exponentials and their relatives are the polynomials of E16 to E19 in float64.

Tests run the kernels in Triton's interpreter, which shows the order of the operations, and compile
all of them for several GPUs, which shows in the generated code that nothing is fused, approximated
or flushed.
"""
