"""This package draws worlds to pictures, windows and video files."""
