"""ovirt-imageio: disks of an oVirt transfer, over HTTPS or the host's unix socket."""
