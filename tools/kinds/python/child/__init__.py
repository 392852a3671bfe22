"""The program a warm child process runs: user code in, JSON out, nothing left behind.

Started by its path with a bare environment; imports the standard library alone. A
request is a frame on the control socket (four bytes of length, one that names it, then
JSON), its answer another one (length, JSON) that repeats the request's id. It may be
begun once the byte that names it was read from the socket of tickets; where a later
one comes first, the parent took it back. What user code prints goes to the real
standard output and is collected by the parent. Between requests environment, working
directory, import path, signal handlers and builtins are put back; a run that leaves
threads or processes behind is reported, and the parent replaces the child.

Usage: ``python -I child/__main__.py CONTROL_FD TICKETS_FD ADDRESS_SPACE_BYTES``
"""
