"""This package has exact solutions of small games, and search."""
