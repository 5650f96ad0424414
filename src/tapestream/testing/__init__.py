"""What tests and demos need: a real ovirt-imageio daemon, and disk images for it to serve.

The daemon needs the optional dependencies (`pip install "tapestream[testing]"`), the images the
qemu tools (`qemu-utils` on Debian, `qemu-img` and `qemu-nbd` elsewhere).
"""

from tapestream.testing.daemon import ImageioDaemon
from tapestream.testing.images import (
    ImageServer,
    compare_images,
    create_image,
    image_info,
    serve_image,
    virtual_size,
    write_pattern,
)

__all__ = [
    "ImageServer",
    "ImageioDaemon",
    "compare_images",
    "create_image",
    "image_info",
    "serve_image",
    "virtual_size",
    "write_pattern",
]
