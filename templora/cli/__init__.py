"""The command line: parse, call the library, render. `main` is the entry point."""
