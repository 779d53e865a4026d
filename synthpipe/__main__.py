"""`python -m synthpipe`."""

from synthpipe.cli import main

if __name__ == "__main__":
    main()
