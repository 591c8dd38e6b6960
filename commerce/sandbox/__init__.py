"""HTTP simulators of OpenMeter and Modern Treasury: own process, own store, own sense of what happened.

They speak the providers' paths, shapes, signatures and state machines, and inject delivery faults on
demand. Nothing that ships imports this package; it imports neither Django nor our own applications.
"""
