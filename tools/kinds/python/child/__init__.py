"""The program a warm child process runs: user code in, JSON out, nothing left behind.

Started by its path with a bare environment; imports the standard library alone. A
request is a frame on the control socket (four bytes of length, then JSON), its answer
another one that repeats the request's id. What user code prints goes to the real
standard output and is collected by the parent. Between requests environment, working
directory, import path, signal handlers and builtins are put back; a run that leaves
threads or processes behind is reported, and the parent replaces the child.

Usage: ``python -I child/__main__.py CONTROL_FD ADDRESS_SPACE_BYTES``
"""
