"""`handheld`: the command line; each file here is one command, `program` lists them."""

from pipeline.command_line.program import PROGRAM, main

__all__ = ["PROGRAM", "main"]
