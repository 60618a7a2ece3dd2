"""Example plugin of menvae: an encoder, a term, a metric, a picture, a tracker, a runner and a data source."""
