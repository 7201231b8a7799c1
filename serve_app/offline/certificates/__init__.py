"""`serve-app certs`: certificates for tests and first steps, and a look at any certificate."""
