"""Guarded ways out, one per outside thing, each the only importer of its driver.

A door knows limits and how to stop what it started; it knows nothing of playbooks.
"""
