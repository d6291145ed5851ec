"""Device slices: what is asked for, where it fits, which place is best, and why not elsewhere. Pure, and integers only.

``request``  what one replica asks for
``rooms``    the devices of a worker and what is taken of them
``usage``    what devices report, against what is reserved
``fit``      whether a device may take a slice, and the reason if not
``score``    how full a device or a worker is
``choose``   which devices of one worker
``place``    which worker
``nearest``  the request that would fit instead
``explain``  every device with its reason
``tally``    what every device reported, as its slices
"""
