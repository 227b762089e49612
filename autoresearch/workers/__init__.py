"""Where runs are done: warm worker processes on this machine, what they cost, and what the machine is."""
