"""What may be believed and used: pins, the lock, licences."""
