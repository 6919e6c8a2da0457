"""The door: `python -m llmbench`."""

from llmbench.cli.main import main

if __name__ == "__main__":
    main()
