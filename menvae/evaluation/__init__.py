"""What a run is worth: regression, independence, use of the latent space, gates, pictures, report."""
