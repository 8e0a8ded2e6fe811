"""Triton kernels of sparse attention, one op a file: kernels, then what launches them. Importing one needs triton.

No launcher reads from the device: grids are upper bounds that the host knows, and programs past the end return at
once. No floats are added up in an order that could change, so the same input gives the same bits.
"""
