"""What one loop's tensors are of the other's: explanations that give one side's numbers from the
other side's, or from both sides' inputs.
"""
