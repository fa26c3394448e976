"""Plans that come with the package: `templora eval NAME`."""
