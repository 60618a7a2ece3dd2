"""Where runs are written down: the local log first, then trackers, which are parts of the group ``tracker``."""
