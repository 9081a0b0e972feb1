"""What a run reads and writes: its device, checkpoints, detail, draws, and files of the
framework.
"""
