"""Hydra plugins of menvae: the launcher and sweepers of ``menvae-train -m``.

Hydra imports every module here whenever any Hydra application starts, so they import only Hydra at the top.
"""
