"""Records of runs: the local log first, then trackers, which are parts of the group ``tracker``."""
