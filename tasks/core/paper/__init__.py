"""The tables of the paper, and Table 2 with measured figures beside it."""
