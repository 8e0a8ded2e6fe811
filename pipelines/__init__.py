"""One file a pipeline family, and the embedded demo model."""
