"""The pure core: what a playbook means, what a log amounts to, what comes next.

No socket, clock, random number, environment, log line or lock: time, ids and whatever
must be looked up are arguments. Start reading at ``drive`` (what does this state still
lack?), then ``state`` (the fold), then ``playbook`` and ``template`` (the language).
Imports nothing of the other packages.
"""
