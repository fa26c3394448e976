"""Templates that come with the package."""
