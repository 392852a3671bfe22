"""What a step can do: one kind of tool each, and the runner that drives them.

May import the core's records, ports, errors, template, retry and redact; never its
state, drive, index or playbook. A tool sees rendered configuration and nothing else.
"""
