"""A double of an oVirt engine: its REST API, in front of a real imageio daemon and real qcow2."""
