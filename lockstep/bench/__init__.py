"""How contenders are timed and judged: a process each, proved equal first, rounds interleaved."""
