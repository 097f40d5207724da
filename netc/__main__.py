"""`python -m netc` is the command line."""

from netc.cli import main

if __name__ == "__main__":
    main()
