"""One of several nodes of a run: how it finds the others, checks them and notices their loss."""
