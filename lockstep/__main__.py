import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` puts the present folder first; its files are no part of lockstep, unless lockstep
    # itself lies there
    here = Path(__file__).resolve().parent.parent
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != here:
        del sys.path[0]

    from lockstep.cli import main

    main()
