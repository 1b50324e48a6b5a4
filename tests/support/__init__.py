"""What several tests need: servers, toy models, samples, and the scripts that write generated pages."""
