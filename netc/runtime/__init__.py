"""The run side: reads `model.bin`, checks it, and executes its plan.

Imports nothing of the compiler: a saved model runs where only Python and NumPy are installed.
"""
