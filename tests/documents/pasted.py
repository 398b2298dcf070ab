"""Runs the block of a page that is the first argument, with the work that it leaves to the reader."""

import ast
import asyncio
import sys


class Done:
    def __await__(self):
        return iter(())


def backup(*tables, fencing_token):
    print("worked under", fencing_token)
    return Done()


names = {"backup": backup, "tables": ["orders"]}
code = compile(sys.argv[1], "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
waiting = eval(code, names)
if waiting:
    asyncio.run(waiting)
