"""Templates: files that `compiler` executes and numba compiles, once for each world or once for all.

step, actions, autoreset and simd_step are executed for each world; dispatch and crash depend on no world. See
`template_context` for how they get a world's kernels.
"""
