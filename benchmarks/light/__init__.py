"""The pieces of first_light.py: each measures something in a process of its own and notes what it finds as it goes."""
