"""What every component shares: its image and nothing installed at run time."""

import functools
import os

from kfp import dsl

IMAGE = os.environ.get("GRAFT_IMAGE", "graft-python:latest")

component = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
