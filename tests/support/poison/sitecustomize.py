"""On PYTHONPATH: a process that meets one of these images dies of SIGSEGV, as of a bug in C.

One has `MARKER` in its bytes, and kills as it is decoded; another has the colour `DEADLY_RGB` all
over, and kills as it is scored. Python imports this at its start; what it wraps is wrapped once
mrkd itself has loaded it, so that nothing heavy is imported here.

With `MRKD_POISON=raise` nothing dies: an exception is raised in its place, as of a bug in Python.
That is for runs in one process, which no other would outlive.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys

MARKER = b"mrkd-test-poison"
"""After the end of an image, where no decoder looks."""
DEADLY_RGB = (7, 77, 177)


def _die():
    if os.environ.get("MRKD_POISON") == "raise":
        raise ZeroDivisionError("a poisonous image")
    os.kill(os.getpid(), signal.SIGSEGV)


def _wrap_decoding(module):
    decode = module.cv2.imdecode

    def deadly(buffer, *options):
        if MARKER in bytes(buffer):
            _die()
        return decode(buffer, *options)

    module.cv2.imdecode = deadly


def _wrap_forward(module):
    infer = module.infer

    def deadly(model, pixels_BHW3):
        for pixels in pixels_BHW3.flatten(1, 2):
            if (pixels == pixels.new_tensor(DEADLY_RGB)).all():
                _die()
        return infer(model, pixels_BHW3)

    module.infer = deadly


_WRAPPED = {
    "mrkd.data.images.decode": _wrap_decoding,
    "mrkd.model.inference.forward": _wrap_forward,
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, wrap):
        self._loader, self._wrap = loader, wrap

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._wrap(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader, _WRAPPED[name])
        return spec


sys.meta_path.insert(0, _Finder())
