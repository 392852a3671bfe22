"""Routes: paths, methods and status codes; what they mean is in the rooms beside."""
