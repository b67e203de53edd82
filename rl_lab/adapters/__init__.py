"""Each framework in files of its own."""
