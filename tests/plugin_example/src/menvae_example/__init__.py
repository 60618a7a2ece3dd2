"""An encoder, a term and an objective for menvae."""
