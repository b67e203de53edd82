"""Steps N copies of a world: compiles its kernels, owns the batch's arrays, resets and time limits."""
