"""The core package holds what every other package uses: records, kernels, random streams, protocols, files, errors."""
