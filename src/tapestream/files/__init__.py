"""Files, pipes, block devices and file objects on this machine, and the tars and images in them."""
