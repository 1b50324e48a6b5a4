"""What a checkpoint holds: state dicts in wrappers, under prefixes, averaged or not; found before anything is built."""
