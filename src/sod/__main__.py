"""`python -m sod` is the command `sod`."""

from sod.cli import main

if __name__ == "__main__":
    main()
