"""From bytes to a proven file: partial, digest, rename, and many processes that want the same one."""
