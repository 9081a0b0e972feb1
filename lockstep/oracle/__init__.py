"""An independent trainer in float64 NumPy, gradients derived by hand: what both frameworks are held
against.
"""
