"""Networks of the five methods, one module each, and the blocks they are built from."""
