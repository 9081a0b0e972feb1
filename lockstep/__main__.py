import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` puts the present folder first; what lies there is no part of lockstep, unless
    # lockstep itself does
    if (
        not sys.flags.safe_path
        and Path(sys.path[0]).resolve() != Path(__file__).resolve().parent.parent
    ):
        del sys.path[0]

    from lockstep.cli import main

    main()
