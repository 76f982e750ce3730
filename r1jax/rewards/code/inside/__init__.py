"""What runs on the far side: sent as source to a bare interpreter, standard library only.

These modules never see an expected output. They are also written for older interpreters than the
package's own, because the sandbox may have to use the system's Python.
"""
