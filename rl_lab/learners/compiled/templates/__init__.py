"""The learners' kernels, compiled once for each shape of network."""
