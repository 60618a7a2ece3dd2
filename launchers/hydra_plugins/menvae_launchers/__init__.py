"""Hydra plugins of menvae: launchers that send the points of a sweep somewhere.

Hydra imports every module here whenever any Hydra application starts, so that nothing but Hydra is imported at the top.
"""
