"""An independent trainer in float64 NumPy, with gradients derived by hand: both frameworks are held
against it.
"""
