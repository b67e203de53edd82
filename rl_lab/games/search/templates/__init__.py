"""This package has the searches as templates, which are compiled once for each world."""
