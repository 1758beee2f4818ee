"""`python -m pytinykv` is the `tinykv` command."""

from __future__ import annotations

from pytinykv.cli import main

if __name__ == "__main__":
    main()
