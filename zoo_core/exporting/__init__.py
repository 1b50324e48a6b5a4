"""Models written for other runtimes, and compared with what they were."""
