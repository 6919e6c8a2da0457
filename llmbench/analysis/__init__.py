"""Many Records in, statements about them out. NumPy only: a verdict is reached on a laptop, from what was recorded."""
