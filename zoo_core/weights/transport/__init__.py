"""Getting bytes from a source: the web, this machine, a bucket. What goes wrong is told apart, never hidden."""
